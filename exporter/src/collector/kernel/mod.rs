//! The kernel itself: its identity, clocks, settings and resources.

pub mod entropy;
pub mod filefd;
pub mod kernel_hung;
pub mod os;
pub mod selinux;
pub mod sysctl;
pub mod time;
pub mod timex;
pub mod uname;
