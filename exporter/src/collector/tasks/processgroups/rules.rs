//! Which group a process belongs to: flags, or a file of process-exporter's shape.
//!
//! <https://man7.org/linux/man-pages/man5/proc_pid_comm.5.html>
//!
//! A process is known by its comm alone. Its executable and its command line are not read, since arguments hold
//! secrets: a file that asks for them is refused and not half obeyed.

use std::collections::HashSet;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{CONFIG, NAME};
use crate::collector::SetupError;
use crate::go_regex::GoRegex;
use crate::options::Options;
use crate::text::{self, ProcessStat};

/// The group of the kernel's own threads, where no rules are given.
pub(super) const KERNEL: &str = "[kernel]";
/// The group of processes without a group of their own: beyond the limit, or without a name.
pub(super) const OTHER: &str = "other";

/// Rules, the first that matches a process names its group. Without any, each comm is a group.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    name: Vec<Part>,
    matcher: Matcher,
}

/// A part of a group's name.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Comm,
}

#[derive(Debug)]
enum Matcher {
    Regexp(GoRegex),
    Comms(HashSet<Vec<u8>>),
}

impl Rules {
    /// Rules from the flags, and from the file that they name.
    pub(super) fn new(options: &Options) -> Result<Self, SetupError> {
        options.exclusive(NAME.row.name, CONFIG.row.name)?;
        let path = CONFIG.get(options);
        if path.is_empty() {
            let rules = NAME.get(options).into_iter().map(|text| {
                Rule::parse_flag(&text).map_err(|error| {
                    options.refuse(NAME.row.name, &text, format!("{error}; use NAME=REGEXP"))
                })
            });
            return Ok(Self(rules.collect::<Result<_, _>>()?));
        }
        let file = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        let rules = file.and_then(|yaml| Self::from_yaml(&yaml));
        rules.map_err(|reason| SetupError::File { flag: CONFIG.row.name, path, reason })
    }

    fn from_yaml(yaml: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(yaml).map_err(|error| first_line(&error.to_string()))?;
        if file.process_names.is_empty() {
            return Err("process_names is empty; leave the flag out to have a group for each comm".into());
        }
        let rules = file.process_names.into_iter().enumerate().map(|(at, entry)| {
            Rule::from_entry(entry).map_err(|error| format!("entry {} of process_names: {error}", at + 1))
        });
        Ok(Self(rules.collect::<Result<_, _>>()?))
    }

    /// The group of a process; none when there are rules and none of them matches.
    pub(super) fn group(&self, process: &ProcessStat<'_>) -> Option<String> {
        let comm = text::printable(process.comm);
        let name = match &self.0[..] {
            [] if process.kernel => return Some(KERNEL.into()),
            // Any process may take that name: it does not make it a thread of the kernel.
            [] if comm == KERNEL => OTHER.into(),
            [] => comm.into_owned(),
            rules => rules.iter().find(|rule| rule.matches(process.comm))?.name(&comm),
        };
        Some(if name.is_empty() { OTHER.into() } else { name })
    }
}

impl Rule {
    /// `NAME=REGEXP`.
    fn parse_flag(text: &str) -> Result<Self, String> {
        let (name, regexp) = text.split_once('=').ok_or("no = after the group's name")?;
        let regexp = GoRegex::new(regexp).map_err(|error| error.to_string())?;
        Ok(Self { name: template(name)?, matcher: Matcher::Regexp(regexp) })
    }

    fn from_entry(entry: Entry) -> Result<Self, String> {
        for (key, given) in [("exe", entry.exe.is_some()), ("cmdline", entry.cmdline.is_some())] {
            if given {
                return Err(format!(
                    "{key} is not supported: executables and command lines are not read, since arguments hold \
                     secrets; match by comm"
                ));
            }
        }
        let comms: HashSet<Vec<u8>> = entry.comm.into_iter().map(String::into_bytes).collect();
        if comms.is_empty() {
            return Err("comm is missing: a list of names as in /proc/<pid>/comm, of at most 15 bytes".into());
        }
        let name =
            entry.name.ok_or("name is missing, such as \"{{.Comm}}\": the executable's is not known")?;
        Ok(Self { name: template(&name)?, matcher: Matcher::Comms(comms) })
    }

    fn matches(&self, comm: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Regexp(regexp) => regexp.is_match(comm),
            Matcher::Comms(comms) => comms.contains(comm),
        }
    }

    fn name(&self, comm: &str) -> String {
        let part = |part: &'_ Part| match part {
            Part::Text(text) => text.clone(),
            Part::Comm => comm.to_owned(),
        };
        self.name.iter().map(part).collect()
    }
}

/// A name with `{{.Comm}}` for the process' own.
fn template(name: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("{{") {
        let (variable, after) = after.split_once("}}").ok_or("{{ without }} in the group's name")?;
        match variable.trim() {
            ".Comm" => {}
            other => return Err(format!("{{{{{other}}}}} is not known here, {{{{.Comm}}}} is")),
        }
        parts.extend([Part::Text(before.to_owned()), Part::Comm]);
        rest = after;
    }
    parts.push(Part::Text(rest.to_owned()));
    parts.retain(|part| *part != Part::Text(String::new()));
    if parts.is_empty() { Err("no name for the group".into()) } else { Ok(parts) }
}

/// The parser prints an error over several lines; the first one has the reason and the place.
fn first_line(error: &str) -> String {
    error.lines().next().unwrap_or("not YAML").trim_start_matches("error: ").to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    process_names: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    #[serde(default)]
    comm: Vec<String>,
    exe: Option<IgnoredAny>,
    cmdline: Option<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(comm: &[u8], kernel: bool) -> Vec<u8> {
        let flags: &[u8] = if kernel { b"2129984" } else { b"4194560" };
        [b"1 (", comm, b") S 0 1 1 0 -1 ", flags, b" 0 0 0 0 0 0 0 0 20 0 1 0 29 0 0"].concat()
    }

    fn group(rules: &Rules, comm: &[u8], kernel: bool) -> Option<String> {
        rules.group(&ProcessStat::parse(&process(comm, kernel)).unwrap())
    }

    fn of_flags(flags: &[&str]) -> Result<Rules, String> {
        let arguments = flags.iter().map(|flag| (*flag).to_owned());
        Rules::new(&Options::parse(super::super::COLLECTOR.flags, arguments).unwrap().0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_rules_each_comm_is_a_group_and_the_kernels_threads_are_one() {
        let rules = Rules::default();
        assert_eq!(group(&rules, b"kubelet", false).unwrap(), "kubelet");
        assert_eq!(group(&rules, b"a\nb) S", false).unwrap(), "a\nb) S");
        assert_eq!(group(&rules, b"kworker/0:1", true).unwrap(), "[kernel]");
    }

    #[test]
    fn a_process_with_the_kernels_name_or_an_empty_one_is_in_the_group_other() {
        let rules = Rules::default();
        assert_eq!(group(&rules, b"[kernel]", false).unwrap(), "other");
        assert_eq!(group(&rules, b"", false).unwrap(), "other");
        let rules = of_flags(&["--collector.processgroups.name={{.Comm}}=.*"]).unwrap();
        assert_eq!(group(&rules, b"", false).unwrap(), "other");
    }

    #[test]
    fn the_first_flag_that_matches_names_the_group() {
        let rules = of_flags(&[
            "--collector.processgroups.name=containers=^(containerd|runc)",
            "--collector.processgroups.name=web-{{ .Comm }}=^nginx$",
            "--collector.processgroups.name=a=b=c",
        ])
        .unwrap();
        assert_eq!(group(&rules, b"containerd-shim", false).unwrap(), "containers");
        assert_eq!(group(&rules, b"nginx", false).unwrap(), "web-nginx");
        assert_eq!(group(&rules, b"xb=cx", false).unwrap(), "a", "the name ends at the first =");
        assert_eq!(group(&rules, b"bash", false), None);
    }

    #[test]
    fn a_file_of_process_exporters_shape_matches_whole_comms() {
        let rules = Rules::from_yaml(
            "process_names:\n  - name: \"{{.Comm}}\"\n    comm:\n    - bash\n    - 'etcd'\n  - {name: runtime, comm: [containerd]}\n",
        )
        .unwrap();
        assert_eq!(group(&rules, b"etcd", false).unwrap(), "etcd");
        assert_eq!(group(&rules, b"containerd", false).unwrap(), "runtime");
        assert_eq!(group(&rules, b"containerd-shim", false), None);
    }

    #[test]
    fn a_rule_that_cannot_match_is_refused_with_the_reason() {
        let error = |entry: &str| Rules::from_yaml(&format!("process_names:\n{entry}\n")).unwrap_err();
        for key in ["exe", "cmdline"] {
            let error = error(&format!("- name: a\n  comm: [a]\n- name: b\n  {key}: ['.+']"));
            assert!(
                error.starts_with(&format!("entry 2 of process_names: {key} is not supported")),
                "{error}"
            );
            assert!(error.contains("not read") && error.contains("match by comm"), "{error}");
        }
        assert!(error("- name: a").contains("comm is missing"));
        assert!(error("- comm: [a]").contains("name is missing"));
        let exe_base = error("- {name: '{{.ExeBase}}', comm: [a]}");
        assert!(exe_base.contains("{{.ExeBase}} is not known here, {{.Comm}} is"), "{exe_base}");
        assert!(error("- {nam: a, comm: [a]}").contains("unknown field `nam`"));
        assert!(error("  []").contains("process_names is empty"));
        assert!(!error("- {").contains('\n'));
    }

    #[test]
    fn bad_flags_end_with_what_to_do() {
        for flag in ["nothing", "a=(", "=x", "{{.Comm=x"] {
            let error = of_flags(&[&format!("--collector.processgroups.name={flag}")]).unwrap_err();
            assert!(error.contains(flag) && error.ends_with("use NAME=REGEXP"), "{error}");
        }
        let both = ["--collector.processgroups.name=a=b", "--collector.processgroups.config=/none"];
        assert!(of_flags(&both).unwrap_err().contains("exclude each other"));
        let missing = of_flags(&["--collector.processgroups.config=/none"]).unwrap_err();
        assert!(missing.starts_with("--collector.processgroups.config=/none: No such file"), "{missing}");
    }
}
