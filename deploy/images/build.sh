#!/usr/bin/env bash
# Builds the two images from this checkout, without a network once cargo has the dependencies.
#
# usage: build.sh programs DIRECTORY [ARGUMENT]... the three static programs; each ARGUMENT goes to `cargo build`
#        build.sh images DIRECTORY [ARGUMENT]...   keyhole-broker:VERSION (with the reader) and keyhole-exporter:VERSION of
#                                               the programs in DIRECTORY, in buildah's storage; each ARGUMENT goes to
#                                               `buildah build`
#
# The same sources and tools give the same bytes, whatever the directory, the day and the user's settings. In the environment:
#   TARGET             whose programs: x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu (this machine's); for another
#                      than this machine's, rustup needs the target and cargo its linker; for aarch64 that is
#                      aarch64-linux-gnu-gcc
#   SOURCE_DATE_EPOCH  the date of the images and of the files in them (the commit's)
set -euo pipefail

action=${1-} directory=$(realpath -m "${2:?usage: build.sh programs|images DIRECTORY}")
cd "$(dirname "$0")/../.."
target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}

programs() {
    local flags
    # Where sources lie would be in panic messages. CARGO_ENCODED_RUSTFLAGS beats RUSTFLAGS and every configuration file.
    # Packed relocations take 0.5 MiB off the exporter; a static program reads them by its own glibc, 2.36 or newer.
    flags=(
        -Ctarget-feature=+crt-static
        -Clink-arg=-Wl,-z,pack-relative-relocs
        -Clink-arg=-Wl,-T,deploy/images/no-unwind-tables.ld,--no-eh-frame-hdr
        "--remap-path-prefix=$PWD=/keyhole"
        "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    )
    [[ $target != aarch64-* ]] || export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$PWD/deploy/images/link-static-pie
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}") \
        cargo build --locked --quiet --release --target "$target" -p keyhole-broker -p keyhole-reader -p keyhole-exporter "$@"
    install -D --mode=755 --target-directory="$directory" \
        "${CARGO_TARGET_DIR:-target}/$target/release/keyhole-"{broker,reader,exporter}
}

images() {
    local version platform name
    version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
    case $target in
    x86_64-*) platform=linux/amd64 ;;
    aarch64-*) platform=linux/arm64 ;;
    *) echo "build.sh: error: TARGET=$target: images are for x86_64 and aarch64" >&2 && exit 1 ;;
    esac
    for name in broker exporter; do
        buildah build --quiet --format oci --platform "$platform" --identity-label=false \
            --timestamp "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}" \
            --build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD)" \
            --build-context "programs=$directory" --target "$name" --file deploy/images/Containerfile \
            --tag "keyhole-$name:$version" "$@" deploy/images
    done
}

case $action in
programs | images) "$action" "${@:3}" ;;
*) echo "build.sh: error: $action: say programs or images" >&2 && exit 2 ;;
esac
