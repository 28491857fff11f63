#!/usr/bin/env bash
# Asks real shells what they would offer, and groff whether the manual pages are sound. usage: completions.sh DIR
set -euo pipefail
cd "$(dirname "$0")/../.."
programs=$(realpath "$1")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
PATH=$directory:$PATH
for program in keyhole-broker keyhole-exporter; do
    # What completes is looked up by name.
    ln -s "$programs/$program" "$directory/$program"
    for shell in bash fish zsh; do "$program" completions "$shell" >"$directory/$program.$shell"; done
done
# The program whose completions are asked for.
program=keyhole-exporter

fail() {
    echo "completions.sh: error: $*" >&2
    exit 1
}

bash_offers() { # the words of a command line, the last to be completed
    bash -uc 'source "$0"; program=$1; shift; COMP_WORDS=("$program" "$@"); COMP_CWORD=$#
        "_${program//-/_}"; printf "%s\n" "${COMPREPLY[@]}"' "$directory/$program.bash" "$program" "$@"
}
fish_offers() {
    fish --no-config -c 'source $argv[1]; complete -C "$argv[2] $argv[3]"' "$directory/$program.fish" "$program" "$*" | cut -f1
}
zsh_offers() { # COMMAND-LINE WORD: waits for the word
    # zsh completes on a terminal alone: zpty gives it one.
    timeout 20 zsh -f -c '
        zmodload zsh/zpty
        zpty z "PS1= zsh -f -i"
        zpty -w z "PS1=; unset zle_bracketed_paste; LISTMAX=0; fpath=('"$directory"' \$fpath); autoload -Uz compinit; compinit -u -D; source '"$directory/$program"'.zsh; zstyle \":completion:*\" list-prompt \"\"; print READY"
        while zpty -r z line; do [[ $line == READY* ]] && break; done
        zpty -n -w z "'"$program"' $1"$'"'\\t\\t'"'
        text=
        while (( SECONDS < 15 )) && [[ $text != *$2* ]]; do
            zpty -rt z line && text+=$line || sleep 0.1
        done
        print -r -- "$text"' - "$1" "$2"
}
expect() { # SHELL WORD ARGUMENT...: the word must be offered after the arguments
    local shell=$1 word=$2
    shift 2
    "${shell}_offers" "$@" >"$directory/offered"
    grep -qxF -e "$word" "$directory/offered" || fail "$shell offers no $word after '$program $*': $(head -c 500 "$directory/offered")"
}

for shell in bash fish; do
    expect "$shell" describe ''
    expect "$shell" query qu
    expect "$shell" meminfo query mem
    expect "$shell" zsh completions ''
    expect "$shell" --no-collector.hwmon --no-collector.hw
done
expect bash --web.listen-address= --web.l
expect bash json query --output = j
expect bash json query -o j
expect bash -oraw query -or
expect bash raw query -o r
expect fish raw query -o r
refuse() { # SHELL WORD ARGUMENT...: the word must not be offered after the arguments
    local shell=$1 word=$2
    shift 2
    "${shell}_offers" "$@" >"$directory/offered"
    ! grep -qxF -e "$word" "$directory/offered" || fail "$shell offers $word after '$program $*'"
}
# describe takes two of the formats.
for shell in bash fish; do
    expect "$shell" table describe -o ''
    expect "$shell" json describe -o ''
    refuse "$shell" raw describe -o ''
    refuse "$shell" prom describe -o ''
    expect "$shell" debug --log.level d
    expect "$shell" proto --collector.ipvs.backend-labels p
    refuse "$shell" held-files --held
done
expect bash local_port,proto --collector.ipvs.backend-labels = local_port,p
expect fish local_port,proto --collector.ipvs.backend-labels local_port,p
expect fish --web.listen-address --web.l
expect fish --output=json query --output=j
expect_of_zsh() { # PREFIX WORD: zsh must complete the prefix to the word
    zsh -n "$directory/$program.zsh"
    zsh_offers "$1" "$2" >"$directory/offered"
    grep -q -e "$2" "$directory/offered" || fail "zsh does not complete $program $1: $(head -c 500 "$directory/offered")"
}
expect_of_zsh "query memin" meminfo
expect_of_zsh "query -o ra" raw
expect_of_zsh "describe -o js" json
expect_of_zsh "query --output=js" json
expect_of_zsh "--collector.ipvs.backend-labels=proto,local_p" local_port

program=keyhole-broker
for shell in bash fish; do
    expect "$shell" probe ''
    expect "$shell" policy po
    expect "$shell" zsh completions ''
    expect "$shell" --allow-root --allow-r
done
expect bash --path.rootfs= --path.r
expect bash host --view = h
expect bash default --queries = d
expect bash default,+tcp --queries = default,+tc
expect bash default,+tcp,+routes --queries default,+tcp,+rou
expect bash limits,landlock --sandbox.require limits,la
refuse bash +tcp --queries = ''
expect fish landlock --sandbox.require la
expect bash "$directory" --path.procfs = "${directory%?}"
expect bash "$directory/keyhole-broker.zsh" --socket.path "$directory/keyhole-broker.z"
expect fish --path.rootfs --path.r
expect fish --view=host --view=h
expect_of_zsh "pol" policy
expect_of_zsh "--sandbox.require=limits,landl" landlock

for page in docs/man/*.1; do
    warnings=$(groff -man -ww -z -Tascii "$page" 2>&1) && [ -z "$warnings" ] || fail "$page: $warnings"
done
echo "completions.sh: bash, fish and zsh complete; the manual pages have no warning"
