# What the shell scripts of this directory share. Sourced by them, in the root of the checkout.

name=$(basename "$0")
die() {
    echo "$name: error: $*" >&2
    exit 1
}

# needs PROGRAM...: each is there.
needs() {
    local program
    for program; do command -v "$program" >/dev/null || die "$program is missing: install it"; done
}

# check_source URL: sed and the files that it becomes a part of take it as it is.
check_source() {
    [[ $1 =~ ^https?://[A-Za-z0-9._~:/@%+-]+$ ]] || die "--source=$1: name the repository's URL, such as https://example.org/keyhole"
}

# check_registry REGISTRY
check_registry() {
    [[ $1 =~ ^[a-z0-9][a-z0-9.:/_-]*[a-z0-9]$ && $1 != *://* ]] || die "--registry=$1: a registry is a host and a path in lower case, without a scheme"
}

PROGRAMS=(keyhole-broker keyhole-reader keyhole-exporter)
# Those with a command line of their own, and so with a manual page and completions.
COMMANDS=(keyhole-broker keyhole-exporter)

version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# The date of all files and images. The same commit gives the same bytes.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || true)}
[[ $SOURCE_DATE_EPOCH =~ ^[0-9]+$ ]] || die "no date of the commit: run it in a checkout with git, or set SOURCE_DATE_EPOCH to seconds since 1970"
export SOURCE_DATE_EPOCH
export TZ=UTC LC_ALL=C.UTF-8
umask 022

# check_programs ARCH DIRECTORY [PROGRAM...]: each program is there, static, and for that architecture.
check_programs() {
    local architecture=$1 directory=$2 machine program header dynamic
    shift 2
    needs readelf
    [ "$#" -gt 0 ] || set -- "${PROGRAMS[@]}"
    case $architecture in
        amd64) machine='Advanced Micro Devices X86-64' ;;
        arm64) machine='AArch64' ;;
        *) die "$architecture: an architecture is amd64 or arm64" ;;
    esac
    for program; do
        program=$directory/$program
        [ -f "$program" ] || die "$program is missing: deploy/images/build.sh programs $directory builds it"
        header=$(readelf --file-header --wide "$program" 2>/dev/null) || die "$program is no ELF file"
        header=$(sed -n 's/^ *Machine: *//p' <<<"$header")
        [ "$header" = "$machine" ] || die "$program is for $header, and $architecture needs $machine: is it the other architecture's directory?"
        dynamic=$(readelf --program-headers --wide "$program")
        ! grep -q INTERP <<<"$dynamic" || die "$program is not static: deploy/images/build.sh programs builds it as it ships"
    done
}

# read_programs ARCH=DIRECTORY...: checks them, and sets directories[ARCH] and runnable, those that run on this machine.
declare -A directories=()
runnable=
read_programs() {
    local word architecture here reported program
    [ "$#" -gt 0 ] || die "no ARCH=DIRECTORY: name the programs, such as amd64=target/static"
    case $(uname -m) in
        x86_64) here=amd64 ;;
        aarch64) here=arm64 ;;
        *) here= ;;
    esac
    for word in "$@"; do
        architecture=${word%%=*}
        [ "$architecture" != "$word" ] && [ -n "$architecture" ] && [ -n "${word#*=}" ] || die "$word: write ARCH=DIRECTORY, such as amd64=target/static"
        [ -z "${directories[$architecture]-}" ] || die "$architecture is named twice"
        directories[$architecture]=$(realpath -m "${word#*=}")
        check_programs "$architecture" "${directories[$architecture]}"
        [ "$architecture" != "$here" ] || runnable=${directories[$architecture]}
    done
    for program in ${runnable:+"${COMMANDS[@]}"}; do
        # The exporter's first line is node_exporter's: NAME, version VERSION.
        reported=$("$runnable/$program" --version | sed -n '1s/.* //p')
        [ "$reported" = "$version" ] || die "$runnable/$program is version $reported, and this checkout is $version: build it again"
    done
}

# completions SHELL PROGRAM: the same on all architectures, so those of this machine print them.
completions() {
    [ -n "$runnable" ] || die "completions: none of ${!directories[*]} runs on this machine: name this machine's programs, too"
    "$runnable/$2" completions "$1"
}

# manual PROGRAM DIRECTORY: its manual page, compressed.
manual() {
    mkdir -p "$2"
    gzip --best --no-name <"docs/man/$1.1" >"$2/$1.1.gz"
}

# touched DIRECTORY: everything below has the date of the release.
touched() {
    find "$1" -depth -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

scratch=
cleaned() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap cleaned EXIT
scratch=$(mktemp --directory --tmpdir keyhole-release-XXXXXX)
