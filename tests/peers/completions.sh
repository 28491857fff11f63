#!/usr/bin/env bash
# Asks real shells what they would offer, and groff whether the manual pages are sound. usage: completions.sh DIR
set -euo pipefail
cd "$(dirname "$0")/../.."
program=$(realpath "$1")/keyhole-exporter
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# What completes is looked up by name.
ln -s "$program" "$folder/keyhole-exporter"
PATH=$folder:$PATH
for shell in bash fish zsh; do keyhole-exporter completions "$shell" >"$folder/$shell"; done

fail() {
    echo "completions.sh: error: $*" >&2
    exit 1
}

bash_offers() { # the words of a command line, the last to be completed
    bash -uc 'source "$0"; COMP_WORDS=(keyhole-exporter "$@"); COMP_CWORD=$#
        _keyhole_exporter; printf "%s\n" "${COMPREPLY[@]}"' "$folder/bash" "$@"
}
fish_offers() {
    fish --no-config -c 'source $argv[1]; complete -C "keyhole-exporter $argv[2]"' "$folder/fish" "$*" | cut -f1
}
zsh_offers() { # COMMAND-LINE WORD: waits for the word
    # zsh completes on a terminal alone: zpty gives it one.
    timeout 20 zsh -f -c '
        zmodload zsh/zpty
        zpty z "PS1= zsh -f -i"
        zpty -w z "PS1=; unset zle_bracketed_paste; LISTMAX=0; fpath=('"$folder"' \$fpath); autoload -Uz compinit; compinit -u -D; source '"$folder"'/zsh; zstyle \":completion:*\" list-prompt \"\"; print READY"
        while zpty -r z line; do [[ $line == READY* ]] && break; done
        zpty -n -w z "keyhole-exporter $1"$'"'\\t\\t'"'
        text=
        while (( SECONDS < 15 )) && [[ $text != *$2* ]]; do
            zpty -rt z line && text+=$line || sleep 0.1
        done
        print -r -- "$text"' - "$1" "$2"
}
expect() { # SHELL WORD ARGUMENT...: the word must be offered after the arguments
    local shell=$1 word=$2
    shift 2
    "${shell}_offers" "$@" >"$folder/offered"
    grep -qxF -e "$word" "$folder/offered" || fail "$shell offers no $word after '$*': $(head -c 500 "$folder/offered")"
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
expect fish --web.listen-address --web.l
expect fish --output=json query --output=j
zsh -n "$folder/zsh"
zsh_offers "query memin" meminfo >"$folder/offered"
grep -q meminfo "$folder/offered" || fail "zsh does not complete query memin: $(head -c 500 "$folder/offered")"

for page in docs/man/*.1; do
    warnings=$(groff -man -ww -z -Tascii "$page" 2>&1) && [ -z "$warnings" ] || fail "$page: $warnings"
done
echo "completions.sh: bash, fish and zsh complete; the manual pages have no warning"
