//! `docs/attacks.md`: what was seen, as a table.

use std::fmt::Write as _;
use std::path::Path;

use keyhole_attacks::{Attack, End, L, Layers, Process, R, S, SECTIONS, U};

use crate::{Ends, end, is_here, sandboxed, stopped_by};

const HOW: &str = "UPDATE_DOCUMENTS=1 cargo test -p keyhole-attacks --features hostile-code-for-tests";

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
        "<!-- Generated: {HOW} -->\n\n# What a broken-into process can do\n\n{}\n",
        include_str!("introduction.md")
    );
    summary(&mut text, seen);
    let processes: Vec<_> = Process::ALL.iter().map(|process| process.name()).collect();
    for section in SECTIONS {
        let columns = 4 + processes.len();
        let _ = write!(
            text,
            "\n## {}\n\n| an intruder tries to | call | uid 64646 | uid 0 | {} |\n{}|\n",
            section.title,
            processes.join(" | "),
            "|---".repeat(columns)
        );
        for attack in section.attacks {
            let Some((_, ends)) = seen.iter().find(|(other, _)| other.what == attack.what) else {
                continue;
            };
            let uids = [U, R].map(|layer| cell(ends, end(ends, Process::Broker, layer)));
            let cells = Process::ALL.map(|process| outcome(attack, ends, process));
            let _ = writeln!(
                text,
                "| {} | `{}` | {} | {} |",
                attack.what,
                attack.call,
                uids.join(" | "),
                cells.join(" | ")
            );
        }
    }
    text.push_str("\n## What goes through, and why\n\n");
    for (attack, ends) in seen {
        for (processes, why) in attack.residual {
            let within = |process: &Process| processes & process.bit() != 0;
            let named: Vec<_> =
                Process::ALL.into_iter().filter(within).map(|process| residual(ends, process)).collect();
            let _ = writeln!(text, "- **{}** ({}): {why}", attack.what, named.join(", "));
        }
    }
    text
}

/// Counts, by process.
fn summary(text: &mut String, seen: &[(&'static Attack, Ends)]) {
    type Is<'a> = &'a dyn Fn(&Ends, Process) -> bool;
    let facts: [(&str, Is<'_>); 8] = [
        ("seccomp alone stops", &|ends, process| stopped_by(ends, process) & S != 0),
        ("Landlock alone stops", &|ends, process| stopped_by(ends, process) & L != 0),
        ("only seccomp stops", &|ends, process| only(ends, process, U) == Some(S)),
        ("only Landlock stops", &|ends, process| only(ends, process, U) == Some(L)),
        ("only the uid stops", &|ends, process| only(ends, process, U) == Some(U)),
        ("go through as uid 64646", &|ends, process| goes_through(ends, process)[0]),
        ("go through as uid 0", &|ends, process| goes_through(ends, process)[1]),
        ("are about what is not on this kernel", &|ends, _| !is_here(ends)),
    ];
    let names: Vec<_> = Process::ALL.iter().map(|process| process.name()).collect();
    let _ = write!(text, "| of the attacks | {} |\n{}|\n", names.join(" | "), "|---".repeat(names.len() + 1));
    let row = |text: &mut String, title: &str, is: Is<'_>| {
        let counts = Process::ALL.map(|process| {
            let these =
                seen.iter().filter(|(attack, ends)| attack.is_possible_in(process) && is(ends, process));
            these.count().to_string()
        });
        let _ = writeln!(text, "| {title} | {} |", counts.join(" | "));
    };
    row(text, "were made", &|_, _| true);
    facts.iter().for_each(|(title, is)| row(text, title, is));
}

/// Whether it goes through a sandboxed process, as uid 64646 and as uid 0.
fn goes_through(ends: &Ends, process: Process) -> [bool; 2] {
    sandboxed(ends, process).map(|end| is_here(ends) && end == Some(End::Through))
}

/// The one layer that stops an attack, or 0 when it takes several; none when more could or nothing does. `uid` is the layer
/// of the uid.
fn only(ends: &Ends, process: Process, uid: Layers) -> Option<Layers> {
    let alone = stopped_by(ends, process) & (S | L | uid);
    let through = goes_through(ends, process)[usize::from(uid == R)];
    (is_here(ends) && !through && alone.count_ones() < 2).then_some(alone)
}

/// What it came to in a sandboxed process, and the layers that stop it alone; by uid where that differs.
fn outcome(attack: &Attack, ends: &Ends, process: Process) -> String {
    if !attack.is_possible_in(process) {
        return "-".to_owned();
    }
    let [user, root] = [(U, 0), (R, 1)].map(|(uid, at)| {
        let stopped = stopped_in(ends, process, uid);
        let cell = cell(ends, sandboxed(ends, process)[at]);
        if stopped.is_empty() { cell } else { format!("{cell}: {stopped}") }
    });
    if user == root { user } else { format!("{user}; uid 0: {root}") }
}

/// The layers that stop an attack, in bold where there is only one.
fn stopped_in(ends: &Ends, process: Process, uid: Layers) -> String {
    let alone = stopped_by(ends, process);
    let names = [(S, "seccomp"), (L, "Landlock"), (uid, "uid")];
    let names = names.iter().filter(|(layer, _)| alone & layer != 0).map(|(_, name)| *name);
    match names.collect::<Vec<_>>()[..] {
        _ if goes_through(ends, process)[usize::from(uid == R)] => String::new(),
        _ if !is_here(ends) && alone == 0 => String::new(),
        ["seccomp"] if !is_here(ends) => "seccomp".to_owned(),
        [] => "several together".to_owned(),
        [one] => format!("**{one} only**"),
        ref names => names.join(", "),
    }
}

fn cell(ends: &Ends, end: Option<End>) -> String {
    match end {
        Some(End::Killed) => "killed".to_owned(),
        None => "-".to_owned(),
        _ if !is_here(ends) => "not on this kernel".to_owned(),
        Some(End::Through) => "**yes**".to_owned(),
        Some(End::Refused(errno)) => name(errno),
    }
}

fn residual(ends: &Ends, process: Process) -> String {
    let uid = match goes_through(ends, process) {
        [true, true] => "any uid",
        [true, false] => "uid 64646",
        _ => "uid 0",
    };
    format!("{}, {uid}", process.name())
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
        libc::ELOOP => "ELOOP",
        libc::ENOENT => "ENOENT",
        libc::EFAULT => "EFAULT",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}
