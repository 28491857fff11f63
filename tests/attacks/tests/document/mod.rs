//! `docs/attacks.md`: what was seen, as a table.

use std::fmt::Write as _;
use std::path::Path;

use keyhole_attacks::{Attack, End, L, Layers, R, S, SECTIONS, U};

use crate::{ALONE, Ends, is_here};

const HOW: &str = "UPDATE_DOCUMENTS=1 cargo test -p keyhole-attacks --features hostile-code-for-tests";

/// The columns that are shown: each layer alone, sealed, sealed without Landlock.
const SHOWN: std::ops::Range<usize> = ALONE.start..9;

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
         without capabilities, under no_new_privs: what file modes and the kernel's own checks refuse. *killed* is SIGSYS, and the end of the \
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
            let held = held_by(attack, ends);
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

fn summary(text: &mut String, seen: &[(&'static Attack, Ends)]) {
    let count =
        |is: &dyn Fn(&Attack, &Ends) -> bool| seen.iter().filter(|(attack, ends)| is(attack, ends)).count();
    let alone = |layer: Layers| count(&move |attack, _| attack.stopped_by & layer != 0);
    let only =
        |uid: Layers, layer: Layers| count(&move |attack, _| attack.stopped_by & (S | L | uid) == layer);
    let through = |column: usize| count(&move |_, ends| is_here(ends) && ends[column] == End::Through);
    let _ = write!(
        text,
        "| of {} attacks | uid 64646 | uid 0 |\n|---|---|---|\n\
         | seccomp alone stops | {} | {} |\n| Landlock alone stops | {} | {} |\n| the uid without capabilities alone stops | {} | {} |\n\
         | held by seccomp only | {} | {} |\n| held by Landlock only | {} | {} |\n| held by the uid only | {} | {} |\n\
         | go through the sealed broker | {} | {} |\n| go through it where Landlock is missing | {} | {} |\n\
         | not on this kernel | {absent} | {absent} |\n",
        seen.len(),
        alone(S),
        alone(S),
        alone(L),
        alone(L),
        alone(U),
        alone(R),
        only(U, S),
        only(R, S),
        only(U, L),
        only(R, L),
        only(U, U),
        only(R, R),
        through(5),
        through(6),
        through(7),
        through(8),
        absent = count(&|_, ends| !is_here(ends)),
    );
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
fn held_by(attack: &Attack, ends: &Ends) -> String {
    let of = |uid: Layers, sealed: usize| {
        let held = attack.stopped_by & (S | L | uid);
        let names = [(S, "seccomp"), (L, "Landlock"), (uid, "uid")];
        let names: Vec<_> =
            names.iter().filter(|(layer, _)| held & layer != 0).map(|(_, name)| *name).collect();
        match names[..] {
            [] if ends[sealed] == End::Through => "nothing".to_owned(),
            [] => "several together".to_owned(),
            [one] => format!("**{one} only**"),
            _ => names.join(", "),
        }
    };
    let (user, root) = (of(U, 5), of(R, 6));
    if user == root { user } else { format!("{user}; uid 0: {root}") }
}

fn residual_uids(ends: &Ends) -> &'static str {
    match (ends[5], ends[6]) {
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
