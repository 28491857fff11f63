"""Which queries the exporter of a pod asks and which its broker answers, by the programs' own tables.

Read from the sources, so that a collector or a row that is added there is held to the manifests at once. That
`default` names what the collectors ask that are on without a flag is held by a test of the exporter.
"""
import re

from kustomize import REPOSITORY

COLLECTORS = REPOSITORY / "exporter/src/collector"


def named(identifier):
    """The name of a query in --queries: `NetDev` is net_dev."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", identifier).lower()


def queries_in(text):
    return {named(each) for each in re.findall(r"Query::(\w+)", text)}


def _rows():
    """Each query of the policy, and whether `default` names it."""
    text = (REPOSITORY / "policy/src/table.rs").read_text()
    return {named(name): state == "ON" for name, state in re.findall(r"new_row\(Query::(\w+), \w+, (ON|OFF),", text)}


def _collectors():
    """Each collector: whether it is on by default, and all that it may ask."""
    row = re.compile(
        r'pub const COLLECTOR: Collector = Collector \{\s*name: "(\w+)",\s*default: (true|false),.*?'
        r"queries: &\[(.*?)\],\s*optional: &\[(.*?)\],", re.DOTALL)
    found = {}
    for file in sorted(COLLECTORS.rglob("*.rs")):
        for name, default, queries, optional in row.findall(file.read_text()):
            found[name] = (default == "true", queries_in(queries) | queries_in(optional))
    return found


# Queries that a collector asks only with one of these flags: what its `wants` decides.
ON_DEMAND = {
    "bcache_priorities": ["collector.bcache.priorityStats"],
    "cpuinfo": ["collector.cpu.info", "collector.cpu.info.bugs-include", "collector.cpu.info.flags-include"],
    "net_addresses": ["collector.netdev.address-info"],
    "net_statistics": ["collector.netdev.enable-detailed-metrics"],
}


def _decided():
    """The queries that some collector's `wants` names, and every flag that the sources declare."""
    queries, flags = set(), set()
    for file in COLLECTORS.rglob("*.rs"):
        text = file.read_text()
        for body in re.findall(r"fn wants\(&self, query: Query\) -> bool \{\n(.*?)\n    \}", text, re.DOTALL):
            queries |= queries_in(body)
        flags |= set(re.findall(r'"(collector\.[\w.-]+)"', text))
    return queries, flags


ROWS, ALL_COLLECTORS, (DECIDED, FLAGS) = _rows(), _collectors(), _decided()
DEFAULT = {name for name, default in ROWS.items() if default}
# A pattern that no longer fits the sources must not pass for an empty table.
assert len(ROWS) > 70 and len(ALL_COLLECTORS) > 50, (len(ROWS), len(ALL_COLLECTORS))
assert DECIDED == set(ON_DEMAND), (DECIDED, set(ON_DEMAND))
assert set().union(*ON_DEMAND.values()) <= FLAGS, set().union(*ON_DEMAND.values()) - FLAGS
assert set().union(*(queries for _, queries in ALL_COLLECTORS.values())) <= set(ROWS)


def asked(arguments):
    """What an exporter with these arguments asks."""
    given = {argument.partition("=")[0].removeprefix("--") for argument in arguments}
    on = {name for name, (default, _) in ALL_COLLECTORS.items()
          if (default or f"collector.{name}" in given) and f"no-collector.{name}" not in given}
    queries = set().union(*(ALL_COLLECTORS[name][1] for name in on))
    return {name for name in queries if given & set(ON_DEMAND.get(name, [])) or name not in ON_DEMAND}


def answered(arguments):
    """What a broker with these arguments may be asked: its one --queries, which is its first argument."""
    (flag,) = (argument for argument in arguments if argument.startswith("--queries"))
    assert arguments[0] == flag, "components append to the first argument"
    words = flag.removeprefix("--queries=").split(",")
    if words == ["all"]:
        return set(ROWS)
    assert words[0] == "default" and all(word.startswith("+") for word in words[1:]), flag
    more = [word.removeprefix("+") for word in words[1:]]
    assert set(more) <= set(ROWS) and len(set(more)) == len(more), flag
    return DEFAULT | set(more)
