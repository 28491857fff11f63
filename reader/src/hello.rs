//! The first message of a zygote and of a reader, sent when it is ready: `keyhole/reader/v1/hello.proto`.

use keyhole_os::Layer;

use crate::encode::{bytes, fixed, message, number};
use crate::host::Host;

/// The message; a zygote has no host.
#[derive(Debug)]
pub struct Hello<'h> {
    /// Which reader of its slot this is, counted from 1; 0 for a zygote.
    pub generation: u32,
    /// Its sandbox layers, in force or missing.
    pub layers: &'h [Layer],
    /// The open files of a reader.
    pub host: Option<&'h Host>,
}

impl Hello<'_> {
    /// Encodes it as protobuf.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        number(&mut out, 1, self.generation.into());
        bytes(&mut out, 2, env!("CARGO_PKG_VERSION").as_bytes());
        fixed(&mut out, 3, keyhole_policy::digest());
        for layer in self.layers {
            message(&mut out, 4, |out| {
                bytes(out, 1, layer.name.as_bytes());
                number(out, 2, layer.in_force.into());
                bytes(out, 3, layer.detail.as_bytes());
            });
        }
        let Some(host) = self.host else { return out };
        for (field, view) in [(5, host.view.proc), (7, host.view.sys)] {
            number(&mut out, field, view.is_host.into());
            bytes(&mut out, field + 1, view.reason.as_bytes());
        }
        for (query, outcome, reason) in host.unavailable() {
            message(&mut out, 9, |out| {
                number(out, 1, query as u64);
                number(out, 2, outcome as u64);
                bytes(out, 3, reason.as_bytes());
            });
        }
        fixed(&mut out, 10, host.opened_hash());
        if let Some(hidden) = host.view.hidden {
            bytes(&mut out, 11, hidden.as_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use keyhole_os::shared::SharedCells;
    use keyhole_policy::{Class, TABLE};
    use keyhole_proto::reader;
    use prost::Message;

    use super::*;
    use crate::arguments::{Arguments, ViewMode};
    use crate::cache::SharedState;
    use crate::host::Roots;
    use crate::view::View;

    fn layers() -> [Layer; 2] {
        let layer = |name, in_force, detail: &str| Layer { name, in_force, detail: detail.to_owned() };
        [layer("seccomp", true, "every call"), layer("landlock", false, "not here")]
    }

    /// Decodes it with the generated code, and checks that this code encodes it to the same bytes.
    fn decoded(hello: &Hello<'_>) -> reader::Hello {
        let encoded = hello.encode();
        let decoded = reader::Hello::decode(&*encoded).unwrap();
        assert_eq!(decoded.encode_to_vec(), encoded);
        decoded
    }

    #[test]
    fn a_zygote_reports_its_layers_and_version_and_no_host() {
        let layer = |layer: Layer| reader::Layer {
            name: layer.name.to_owned(),
            in_force: layer.in_force,
            detail: layer.detail,
        };
        let expected = reader::Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            table_digest: keyhole_policy::digest(),
            layers: layers().map(layer).into(),
            ..Default::default()
        };
        assert_eq!(decoded(&Hello { generation: 0, layers: &layers(), host: None }), expected);
    }

    #[test]
    fn a_reader_reports_whose_files_it_has_and_what_it_cannot_read() {
        let tree = tempfile::tempdir().unwrap();
        let arguments =
            Arguments { procfs: tree.path().into(), sysfs: tree.path().into(), ..Arguments::default() };
        for (view, hosts) in [(ViewMode::Host, true), (ViewMode::Container, false)] {
            let shared = SharedState::new(SharedCells::new().unwrap(), 0, 0);
            let roots = Roots::open(&arguments, &Class::ALL, &shared).unwrap();
            let view = View::find(&roots, view).unwrap();
            let mut host = Host::open(TABLE.iter(), &arguments, roots, view, shared);
            let hello = decoded(&Hello { generation: 3, layers: &layers(), host: Some(&host) });
            assert_eq!((hello.generation, hello.proc_is_host, hello.sys_is_host), (3, hosts, hosts));
            let View { proc, sys, hidden, .. } = host.view;
            assert_eq!(&*hello.hidden, hidden.unwrap_or_default());
            assert_eq!((&*hello.proc_reason, &*hello.sys_reason), (proc.reason, sys.reason));
            assert_eq!(hello.opened, host.opened_hash());
            let unavailable = host.unavailable().map(|(query, outcome, reason)| reader::Unavailable {
                query: query as u32,
                outcome: outcome as u32,
                reason,
            });
            let expected: Vec<_> = unavailable.collect();
            assert!(!expected.is_empty());
            assert_eq!(hello.unavailable, expected);
            host.view.hidden = Some("by hidepid");
            let hello = decoded(&Hello { generation: 3, layers: &layers(), host: Some(&host) });
            assert_eq!(hello.hidden, "by hidepid");
        }
    }
}
