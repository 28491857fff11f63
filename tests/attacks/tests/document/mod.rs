//! `docs/attacks.md`: what was seen, as a table.

use std::fmt::Write as _;
use std::path::Path;

use keyhole_attacks::{Attack, End, L, Layers, R, S, SECTIONS, U};

use crate::{ALONE, Ends, SEALED, is_here, stopped_by};

const HOW: &str = "UPDATE_DOCUMENTS=1 cargo test -p keyhole-attacks --features hostile-code-for-tests";

/// The columns that are shown: each layer alone, sealed, sealed without Landlock.
const SHOWN: std::ops::Range<usize> = ALONE.start..SEALED.end + 2;

/// Compares the document with what was seen, or rewrites it.
pub(crate) fn hold(seen: &[(&'static Attack, Ends)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/attacks.md");
    let text = text(seen);
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let stale =
        text.lines().filter(|line| !committed.lines().any(|other| other == *line)).collect::<Vec<_>>();
    assert!(committed == text, "docs/attacks.md is stale: {HOW}\n{}", stale.join("\n"));
}

fn text(seen: &[(&'static Attack, Ends)]) -> String {
    let mut text = format!(
        "<!-- Generated: {HOW} -->\n\n# What a broken-into broker can do\n\n\
         Each attack was run inside the real broker, started and sealed as it always is, by a build that no release can have. It ran with one \
         layer in force at a time, with all of them, and with all but Landlock, which not every kernel has; on the main thread and, sealed, on \
         a lane too, with the same result. With nothing in force, as root with every capability, each goes through: that is how it is known \
         to be an attack. The kernel is Linux 6.18 on x86_64 with Landlock ABI 7.\n\n\
         *seccomp* and *Landlock* stand alone, under root with every capability. *uid 64646* and *uid 0* stand for a process of that uid \
         without capabilities, under no_new_privs, not dumpable and limited: what file modes and the kernel's own checks refuse. *killed* is SIGSYS, and the end of the \
         process; a name is the errno; **yes** is an attack that went through. What this kernel does not have is marked so: there seccomp alone \
         can be seen to stop it.\n\n"
    );
    summary(&mut text, seen);
    for section in SECTIONS {
        let _ = write!(
            text,
            "\n## {}\n\n\
             | an intruder tries to | call | seccomp | Landlock | uid 64646 | uid 0 | sealed, uid 64646 | sealed, uid 0 \
             | no Landlock, uid 64646 | no Landlock, uid 0 | held by |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
            section.title
        );
        for attack in section.attacks {
            let Some((_, ends)) = seen.iter().find(|(other, _)| other.what == attack.what) else {
                continue;
            };
            let cells: Vec<_> = SHOWN.map(|column| cell(ends, column)).collect();
            let held = held_by(ends);
            let _ =
                writeln!(text, "| {} | `{}` | {} | {held} |", attack.what, attack.call, cells.join(" | "));
        }
    }
    text.push_str("\n## What goes through, and why\n\n");
    for (attack, ends) in seen {
        if let Some(why) = attack.residual {
            let _ = writeln!(text, "- **{}** ({}): {why}", attack.what, residual_uids(ends));
        }
    }
    text
}

/// Counts, for a broker of uid 64646 and of uid 0.
fn summary(text: &mut String, seen: &[(&'static Attack, Ends)]) {
    type Is<'a> = &'a dyn Fn(&Ends, &Uid) -> bool;
    let facts: [(&str, Is<'_>); 10] = [
        ("seccomp alone stops", &|ends, _| stopped_by(ends) & S != 0),
        ("Landlock alone stops", &|ends, _| stopped_by(ends) & L != 0),
        ("the uid without capabilities alone stops", &|ends, uid| stopped_by(ends) & uid.layer != 0),
        ("only seccomp stops", &|ends, uid| uid.only(ends) == Some(S)),
        ("only Landlock stops", &|ends, uid| uid.only(ends) == Some(L)),
        ("only the uid stops", &|ends, uid| uid.only(ends) == Some(uid.layer)),
        ("no layer alone stops, but several together", &|ends, uid| uid.only(ends) == Some(0)),
        ("go through the sealed broker", &|ends, uid| is_here(ends) && ends[uid.sealed] == End::Through),
        ("go through it where Landlock is missing", &|ends, uid| {
            is_here(ends) && ends[uid.without_landlock] == End::Through
        }),
        ("are about what is not on this kernel", &|ends, _| !is_here(ends)),
    ];
    let _ = write!(text, "| of {} attacks | uid 64646 | uid 0 |\n|---|---|---|\n", seen.len());
    for (title, is) in facts {
        let [user, root] = UIDS.map(|uid| seen.iter().filter(|(_, ends)| is(ends, &uid)).count());
        let _ = writeln!(text, "| {title} | {user} | {root} |");
    }
}

/// A uid that the broker runs as: what it stops alone, and the columns in which it is sealed.
struct Uid {
    layer: Layers,
    sealed: usize,
    without_landlock: usize,
}

const UIDS: [Uid; 2] = [
    Uid { layer: U, sealed: SEALED.start, without_landlock: SEALED.end },
    Uid { layer: R, sealed: SEALED.start + 1, without_landlock: SEALED.end + 1 },
];

impl Uid {
    /// The one layer that holds an attack, or 0 when it takes several; none when more could or nothing does.
    fn only(&self, ends: &Ends) -> Option<Layers> {
        let alone = stopped_by(ends) & (S | L | self.layer);
        let held = is_here(ends) && ends[self.sealed] != End::Through;
        (held && alone.count_ones() < 2).then_some(alone)
    }

    fn held_by(&self, ends: &Ends) -> String {
        let alone = stopped_by(ends);
        let names = [(S, "seccomp"), (L, "Landlock"), (self.layer, "uid")];
        let names = names.iter().filter(|(layer, _)| alone & layer != 0).map(|(_, name)| *name);
        match names.collect::<Vec<_>>()[..] {
            _ if ends[self.sealed] == End::Through => "nothing".to_owned(),
            _ if !is_here(ends) && alone == 0 => "not seen".to_owned(),
            ["seccomp"] if !is_here(ends) => "seccomp; others not seen".to_owned(),
            [] => "several together".to_owned(),
            [one] => format!("**{one} only**"),
            ref names => names.join(", "),
        }
    }
}

fn cell(ends: &Ends, column: usize) -> String {
    match ends[column] {
        End::Killed => "killed".to_owned(),
        _ if !is_here(ends) => "not on this kernel".to_owned(),
        End::Through => "**yes**".to_owned(),
        End::Refused(errno) => name(errno),
    }
}

/// The layers that stop an attack, by uid where that differs, and in bold where there is only one.
fn held_by(ends: &Ends) -> String {
    let [user, root] = UIDS.map(|uid| uid.held_by(ends));
    if user == root { user } else { format!("{user}; uid 0: {root}") }
}

fn residual_uids(ends: &Ends) -> &'static str {
    match (ends[SEALED.start], ends[SEALED.start + 1]) {
        (End::Through, End::Through) => "any uid",
        (End::Through, _) => "uid 64646",
        _ => "uid 0",
    }
}

fn name(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::EACCES => "EACCES",
        libc::EXDEV => "EXDEV",
        libc::EINVAL => "EINVAL",
        libc::ENODEV => "ENODEV",
        libc::ESRCH => "ESRCH",
        libc::ENOSPC => "ENOSPC",
        libc::EMFILE => "EMFILE",
        libc::ENOMEM => "ENOMEM",
        libc::EROFS => "EROFS",
        libc::EBADF => "EBADF",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}
