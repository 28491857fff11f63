# Daily commands: `just` lists them. Each runs what CONTRIBUTING.md describes; nothing here is needed to build.

# The commands.
default:
    @just --list

# Compiles everything.
build:
    cargo build --workspace

# What must pass before a commit, without root: format, lints, tests.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace

# Tests of one package, or those whose names hold a word: `just test -p keyhole-exporter meminfo`.
test *arguments:
    cargo test {{arguments}}

# Formats all code.
format:
    cargo fmt --all

# Rewrites golden files and generated documents; read the diff.
update:
    cargo run -p keyhole-proto-gen
    UPDATE_GOLDEN=1 cargo test --test golden
    UPDATE_DOCUMENTS=1 cargo test --test documents

# Starts the broker and the exporter on this host.
run *arguments:
    cargo run --release -- {{arguments}}

# Steps of CI, or all of them, as root: `just ci trees`.
ci *steps:
    .ci/run {{steps}}

# What CI needs on a Debian 12, as root.
setup:
    .ci/setup

# Fuzzes every parser, or those named, for so many seconds each: `just fuzz 60 collector`.
fuzz *arguments:
    fuzz/run.sh {{arguments}}

# Measures a scrape beside node_exporter's, as root.
bench *arguments:
    cargo build --release -p keyhole-broker -p keyhole-reader -p keyhole-exporter
    tests/bench/run.py {{arguments}}

# Counts the instructions of a read and of a scrape against the budget.
instructions:
    tests/bench/instructions.py

# Builds the documentation site into target/site/book.
site:
    .ci/site
