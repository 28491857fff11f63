//! krew's manifest, as deploy/krew/manifest writes it, by the rules of krew (krew.sigs.k8s.io, plugin-manifest).

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde::Deserialize;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/krew/manifest");
const PLATFORMS: [(&str, &str); 4] =
    [("linux", "amd64"), ("linux", "arm64"), ("darwin", "amd64"), ("darwin", "arm64")];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plugin {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    version: String,
    homepage: String,
    short_description: String,
    description: String,
    caveats: String,
    platforms: Vec<Platform>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Platform {
    selector: Selector,
    uri: String,
    sha256: String,
    files: Vec<File>,
    bin: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    match_labels: MatchLabels,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MatchLabels {
    os: String,
    arch: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    from: String,
    to: String,
}

fn archive(directory: &Path, os: &str, arch: &str, files: &[&str]) {
    for file in files {
        fs::write(directory.join(file), format!("{os} {arch}")).unwrap();
    }
    let name = format!("kubectl-keyhole_{os}_{arch}.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("czf").arg(directory.join(name)).arg("-C").arg(directory).args(files);
    assert!(tar.status().unwrap().success());
}

fn manifest(version: &str, directory: &Path) -> Output {
    Command::new(SCRIPT).arg(version).arg(directory).output().unwrap()
}

#[test]
fn the_manifest_keeps_krews_rules_and_has_the_archives_checksums() {
    let directory = tempfile::tempdir().unwrap();
    for (os, arch) in PLATFORMS {
        archive(directory.path(), os, arch, &["kubectl-keyhole", "LICENSE"]);
    }
    let output = manifest(env!("CARGO_PKG_VERSION"), directory.path());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("SHA256_OF") && !text.contains("VERSION"), "{text}");
    let plugin: Plugin = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(plugin.api_version, "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!((plugin.kind.as_str(), plugin.metadata.name.as_str()), ("Plugin", "keyhole"));
    let spec = plugin.spec;
    assert_eq!(spec.version, concat!("v", env!("CARGO_PKG_VERSION")));
    assert!(spec.homepage.starts_with("https://"));
    // A few words, on one line, which do not repeat what every plugin is.
    assert!(spec.short_description.len() <= 50 && !spec.short_description.contains(['\n', '.']));
    assert!(!spec.short_description.contains("kubectl"));
    assert!(spec.description.lines().chain(spec.caveats.lines()).all(|line| line.len() <= 80));
    let platforms: Vec<(&str, &str)> = spec
        .platforms
        .iter()
        .map(|platform| {
            (platform.selector.match_labels.os.as_str(), platform.selector.match_labels.arch.as_str())
        })
        .collect();
    assert_eq!(platforms, PLATFORMS);
    for platform in &spec.platforms {
        let labels = &platform.selector.match_labels;
        let name = format!("kubectl-keyhole_{}_{}.tar.gz", labels.os, labels.arch);
        assert!(
            platform.uri.ends_with(&format!("/v{}/{name}", env!("CARGO_PKG_VERSION"))),
            "{}",
            platform.uri
        );
        let sum = Command::new("sha256sum").arg(directory.path().join(name)).output().unwrap().stdout;
        assert_eq!(platform.sha256.as_bytes(), &sum[..64]);
        assert_eq!(platform.bin, env!("CARGO_PKG_NAME"));
        let files: Vec<(&str, &str)> =
            platform.files.iter().map(|file| (file.from.as_str(), file.to.as_str())).collect();
        assert_eq!(files, [("kubectl-keyhole", "."), ("LICENSE", ".")]);
    }
}

#[test]
fn without_an_archive_or_with_another_version_there_is_no_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let error = |version: &str| {
        let output = manifest(version, directory.path());
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(error("v0.2.0").contains("pass it without a v"));
    assert!(error("0.2.0").contains("kubectl-keyhole_linux_amd64.tar.gz is missing"));
    archive(directory.path(), "linux", "amd64", &["kubectl-keyhole"]);
    assert!(error("0.2.0").contains("has no LICENSE at its top"));
}
