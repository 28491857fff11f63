//! What else an intruder does, above all to those at the other end of its pipes: no attack on the host, and so no row of
//! the table.

use crate::call;

/// What is done under a name.
pub fn find(name: &str) -> Option<fn()> {
    FLOODS.iter().chain(OTHERS).find(|(other, _)| *other == name).map(|(_, act)| *act)
}

/// What a zygote or a reader writes to its broker.
const FLOODS: &[(&str, fn())] = &[
    ("garbage", || write_for_ever(&garbage())),
    ("silence", || {
        loop {
            // A request that comes meanwhile is taken and not answered.
            let mut byte = 0u8;
            if call!(SYS_read, 0, &raw mut byte, 1) <= 0 {
                end();
            }
        }
    }),
    ("a frame that is longer than any", || write_for_ever(&[0xff, 0xff, 0xff, 0x7f, 3, 1, 0, 0])),
    ("a frame without an end", || write_for_ever(&[0, 0x80, 0, 0, 3, 1, 0, 0, b'x'])),
    ("empty frames", || write_for_ever(&[0, 0, 0, 0, 3, 1, 0, 0])),
    ("ends of every query", || write_for_ever(&ends())),
    ("reports of itself", || write_for_ever(&[0, 0, 0, 0, 1, 0, 0, 0])),
    ("ends of readers", || {
        write_for_ever(&[&[12, 0, 0, 0, 6, 0, 0, 0][..], &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]].concat())
    }),
];

const OTHERS: &[(&str, fn())] = &[
    ("the pages of other classes", pages),
    ("the pipes of other readers", pipes),
    ("a panic", || panic!("for a test")),
];

/// The names of what is done to a broker by what is written.
pub fn floods() -> impl Iterator<Item = &'static str> {
    FLOODS.iter().map(|(name, _)| *name)
}

fn write_for_ever(bytes: &[u8]) {
    let many = bytes.repeat((16 << 10) / bytes.len());
    while call!(SYS_write, 1, many.as_ptr(), many.len()) > 0 {}
    end();
}

/// Bytes of every value, in no order.
fn garbage() -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..4096).map(|_| next()).collect()
}

/// A last chunk of every query, empty.
fn ends() -> Vec<u8> {
    (1..=u8::MAX).flat_map(|query| [0, 0, 0, 0, 4, query, 0, 0]).collect()
}

/// Reports how many pages of those that the zygote shares with readers can be read here. A call reports it, where to look
/// would end the process.
fn pages() {
    let pages = keyhole_reader::hostile::pages();
    let readable = pages.iter().filter(|page| call!(SYS_write, 1, **page, 1) == 1).count();
    let line = format!("\nof {} pages {readable} can be read\n", pages.len());
    call!(SYS_write, 1, line.as_ptr(), line.len());
    end();
}

/// Reports how many pipes are open here, besides its own two.
fn pipes() {
    const MANY: i32 = 1024;
    let mut byte = 0u8;
    let is_pipe = |fd: &i32| call!(SYS_pread64, *fd, &raw mut byte, 1, 0) == -i64::from(libc::ESPIPE);
    let line = format!("\n{} pipes of others are open\n", (3..MANY).filter(is_pipe).count());
    call!(SYS_write, 1, line.as_ptr(), line.len());
    end();
}

fn end() {
    loop {
        call!(SYS_exit_group, 0);
    }
}
