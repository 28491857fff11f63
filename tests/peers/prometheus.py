#!/usr/bin/env python3
"""Lets a real Prometheus scrape the exporter and asks it what dashboards and alerts ask.

usage: prometheus.py [--binaries DIR] [--seconds N]

Starts Prometheus on a loopback port with a scrape every second and a storage of its own, waits for N scrapes
(12 by default), and asks the queries below, which are node-mixin's with shorter windows. Each must answer
where the host has such data. Fails as well when a scrape fails, when Prometheus complains of a sample, or when a
scrape has fewer than 400 samples. Needs Debian's prometheus package.
"""
import argparse
import sys
import time

import launch
from launch import Keyhole, fail
from prometheus_server import Prometheus

CONFIGURATION = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: node
    static_configs: [{{targets: ["{address}"]}}]
"""

MOUNTS = 'fstype!="",mountpoint!=""'
DISKS = 'device!=""'

# A query, and the family without which the host has nothing for it to answer with; none when every Linux has it.
# Those ending in "== 1" and the like must hold: their answer is empty when they do not.
QUERIES = [
    ('up{job="node"} == 1', None),
    ("min_over_time(up[10s]) == 1", None),
    ("scrape_samples_scraped > 400", None),
    ("keyhole_broker_up == 1", None),
    ("count by (instance) (node_exporter_build_info)", None),
    ("node_time_seconds - node_boot_time_seconds > 0", None),
    ("abs(node_time_seconds - timestamp(node_time_seconds)) < 5", None),
    ('count without (cpu, mode) (node_cpu_seconds_total{mode="idle"})', None),
    ('1 - avg without (cpu) (sum without (mode) (rate(node_cpu_seconds_total{mode=~"idle|iowait|steal"}[5s])))', None),
    ('sum by (instance) (rate(node_cpu_seconds_total{mode!="idle"}[5s])) >= 0', None),
    ('node_load1 / count without (cpu, mode) (node_cpu_seconds_total{mode="idle"})', None),
    ("1 - (node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes) > 0", None),
    ("node_memory_MemTotal_bytes - node_memory_MemFree_bytes - node_memory_Buffers_bytes - node_memory_Cached_bytes", None),
    ("rate(node_vmstat_pgmajfault[5s]) >= 0", None),
    ("rate(node_context_switches_total[5s]) > 0", None),
    ("rate(node_intr_total[5s]) > 0", None),
    (f"100 - 100 * node_filesystem_avail_bytes{{{MOUNTS}}} / node_filesystem_size_bytes{{{MOUNTS}}}", "node_filesystem_size_bytes"),
    (f"node_filesystem_files_free{{{MOUNTS}}} / node_filesystem_files{{{MOUNTS}}} >= 0", "node_filesystem_files"),
    (f"predict_linear(node_filesystem_avail_bytes{{{MOUNTS}}}[8s], 3600)", "node_filesystem_avail_bytes"),
    (f"node_filesystem_readonly{{{MOUNTS}}} == 0", "node_filesystem_readonly"),
    ('sum without (device) (rate(node_network_receive_bytes_total{device!="lo"}[5s])) >= 0', None),
    ("rate(node_network_receive_errs_total[5s]) / rate(node_network_receive_packets_total[5s]) or rate(node_network_receive_packets_total[5s]) == 0", None),
    ("node_network_up", None),
    (f"rate(node_disk_io_time_seconds_total{{{DISKS}}}[5s]) >= 0", "node_disk_io_time_seconds_total"),
    (f"rate(node_disk_io_time_weighted_seconds_total{{{DISKS}}}[5s]) >= 0", "node_disk_io_time_weighted_seconds_total"),
    (f"rate(node_disk_read_bytes_total{{{DISKS}}}[5s]) + rate(node_disk_written_bytes_total{{{DISKS}}}[5s]) >= 0", "node_disk_read_bytes_total"),
    ("node_filefd_allocated * 100 / node_filefd_maximum < 100", None),
    ("rate(node_netstat_Tcp_OutSegs[5s]) >= 0", None),
    ("node_nf_conntrack_entries / node_nf_conntrack_entries_limit <= 1", "node_nf_conntrack_entries_limit"),
    ("rate(node_pressure_cpu_waiting_seconds_total[5s]) >= 0", "node_pressure_cpu_waiting_seconds_total"),
    ("min_over_time(node_timex_sync_status[5s]) >= 0", "node_timex_sync_status"),
    ("node_uname_info * on (instance) group_left() node_load1", None),
    ("rate(process_cpu_seconds_total[5s]) >= 0", None),
    ("keyhole_read_duration_seconds < 1", None),
    ('keyhole_queries{outcome="ok"} > 10', None),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--seconds", type=int, default=12, help="scrapes to wait for")
    arguments = parser.parse_args()
    with Keyhole(arguments.binaries) as keyhole:
        prometheus = Prometheus(CONFIGURATION.format(address=keyhole.url.split("/")[2]))
        with prometheus:
            deadline = time.monotonic() + 3 * arguments.seconds + launch.PROCESS_TIMEOUT
            while (prometheus.number("count_over_time(up[1h])") or 0) < arguments.seconds:
                if time.monotonic() > deadline:
                    fail(f"fewer than {arguments.seconds} scrapes in time")
                time.sleep(0.5)
            unanswered, absent = [], []
            for query, needs in QUERIES:
                if needs and not prometheus.ask(f"count({needs})"):
                    absent.append(needs)
                elif not prometheus.ask(query):
                    unanswered.append(query)
            scrapes, scraped = prometheus.number("count_over_time(up[1h])"), prometheus.number("scrape_samples_scraped")
            took = prometheus.number("quantile_over_time(0.5, scrape_duration_seconds[1h])")
    for name in absent:
        print(f"  the host has no {name}: its query was not asked")
    for query in unanswered:
        print(f"  no answer: {query}")
    for line in prometheus.complaints:
        print(f"  prometheus' log: {line}")
    asked = len(QUERIES) - len(absent)
    print(
        f"prometheus: {asked - len(unanswered)}/{asked} queries answered after {scrapes:.0f} scrapes of "
        f"{scraped:.0f} samples, median {1000 * took:.1f} ms"
    )
    return 1 if unanswered or prometheus.complaints or asked < 15 else 0


if __name__ == "__main__":
    sys.exit(main())
