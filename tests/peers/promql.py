"""Turns expressions of dashboards and rules into queries that a Prometheus of this directory's scripts can be asked."""
import re

# Holds several scrapes of a Prometheus that scrapes every second or two.
INTERVAL = "10s"

# What no comparison stands in: strings, and the matchers of a selector.
OPAQUE = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`|\{(?:"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[^{}"\'])*\}'
COMPARISON = re.compile(rf"({OPAQUE})|(==|!=|<=|>=|<|>)(\s*bool\b)?")


def fill(expression, values):
    """The expression with Grafana's variables filled in: `$name`, `${name}`, `${name:format}`, `[[name]]`.

    >>> fill('rate(up{job="$job",device=~"(a|b)$"}[$__rate_interval]) and ${x:regex}', {"job": "one", "x": "y"})
    'rate(up{job="one",device=~"(a|b)$"}[10s]) and y'
    """
    values = {"__rate_interval": INTERVAL, "__interval": INTERVAL, "__range": INTERVAL, **values}

    def value(found):
        name = found.group(1) or found.group(2) or found.group(3)
        return values.get(name, found.group())

    filled = re.sub(r"\$(\w+)|\$\{(\w+)(?::\w+)?\}|\[\[(\w+)\]\]", value, expression)
    left = re.search(r"\$\w+|\$\{", re.sub(r'\$"', '"', filled))
    if left:
        raise ValueError(f"{expression}: nothing to fill in for {left.group()}")
    return filled


def with_values(expression):
    """The expression with comparisons that return their outcome instead of dropping what does not hold.

    A threshold is about values, and nothing of a drop-in: that the host is well must not hide whether an alert's
    series are there. The outcome has a series wherever its operands have.

    >>> with_values('a{b!="c > d", e=~"{1,2}"} > 90 and rate(f[5m]) <= bool 1 unless g!=0')
    'a{b!="c > d", e=~"{1,2}"} > bool  90 and rate(f[5m]) <= bool  1 unless g!= bool 0'
    """
    return COMPARISON.sub(lambda found: found.group(1) or f"{found.group(2)} bool ", expression)


def label_values(query):
    """The selector and the label of a dashboard's variable; none when it is another kind of query.

    >>> label_values('label_values(up{a="b,c"}, instance)')
    ('up{a="b,c"}', 'instance')
    """
    found = re.fullmatch(r"label_values\(\s*(?:(.*?)\s*,\s*)?(\w+)\s*\)", query, re.DOTALL)
    return found and found.groups()
