#!/usr/bin/env python3
"""Asks a broker as any gRPC client would: Python's grpcio over its Unix socket.

usage: grpc_client.py [--binaries DIR]

Through the socket itself, and through `keyhole-exporter connect` as docs/queries.md says.
Health, Describe, and a Read of every query one by one and of all at once; a query that does not exist, a repeated one
and none at all are INVALID_ARGUMENT; a message without its service is UNIMPLEMENTED. Needs pip's grpcio and
grpcio-tools.
"""
import argparse
import contextlib
import importlib
import pathlib
import sys
import tempfile
import time

from launch import REPOSITORY, Keyhole, fail

try:
    import grpc
    from grpc_tools import protoc
except ImportError as error:
    fail(f"{error}: pip install grpcio grpcio-tools")

# grpcio names the socket's path as the authority, which HTTP/2 servers refuse.
OPTIONS = [("grpc.default_authority", "localhost")]
TIMEOUT = 10
# The broker answers 20 requests a second for each uid, and 40 at once.
PAUSE = 0.06

HEALTH = """\
syntax = "proto3";
package grpc.health.v1;
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse {
  enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
  ServingStatus status = 1;
}
service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }
"""


def compile_protos(directory):
    """Generates Python from the API and from gRPC's health service, and imports it."""
    (directory / "health.proto").write_text(HEALTH)
    for root, name in ((REPOSITORY / "proto", "keyhole/v1/broker.proto"), (directory, "health.proto")):
        if protoc.main(["protoc", f"-I{root}", f"--python_out={directory}", f"--grpc_python_out={directory}", name]):
            fail(f"{name} does not compile")
    sys.path.insert(0, str(directory))
    names = ("keyhole.v1.broker_pb2", "keyhole.v1.broker_pb2_grpc", "health_pb2", "health_pb2_grpc")
    return [importlib.import_module(name) for name in names]


def code_of(call):
    """The status code of a call that must fail."""
    try:
        list(call())
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def expect(what, got, wanted):
    if got != wanted:
        fail(f"{what}: {got}, not {wanted}")


def read(stub, pb, queries):
    """Files, and the outcome of each query. They end in any order."""
    files, outcomes = 0, {}
    for chunk in stub.Read(pb.ReadRequest(queries=queries), timeout=TIMEOUT):
        files += len(chunk.files) + len(chunk.file_systems)
        if chunk.HasField("end"):
            expect(f"the end of query {chunk.query}", chunk.query in outcomes, False)
            outcomes[chunk.query] = chunk.end.outcome
    expect("the queries that ended", sorted(outcomes), sorted(queries))
    return files, outcomes


def check_tunnel(socket, pb, broker):
    """Clients through `keyhole-exporter connect`, two of them at once."""
    with contextlib.ExitStack() as stack:
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(f"unix:{socket}", options=options)) for _ in range(2)]
        stubs = [broker.BrokerStub(channel) for channel in channels]
        queries = [pb.QUERY_STAT, pb.QUERY_MEMINFO, pb.QUERY_LOADAVG, pb.QUERY_NET_DEV]
        for _ in range(3):
            for stub in stubs:
                time.sleep(PAUSE)
                files, outcomes = read(stub, pb, queries)
                expect("the outcomes through the tunnel", set(outcomes.values()), {pb.OUTCOME_OK})
                expect("files through the tunnel", files >= len(queries), True)
        expect("a bad request through the tunnel", code_of(
            lambda: stubs[0].Read(pb.ReadRequest(queries=[9999]), timeout=TIMEOUT)), grpc.StatusCode.INVALID_ARGUMENT)


def check(socket, pb, broker, health_pb, health):
    with grpc.insecure_channel(f"unix:{socket}", options=OPTIONS) as channel:
        serving = health_pb.HealthCheckResponse.SERVING
        for service in ("", "keyhole.v1.Broker"):
            answer = health.HealthStub(channel).Check(health_pb.HealthCheckRequest(service=service), timeout=TIMEOUT)
            expect(f"the health of {service!r}", answer.status, serving)

        stub = broker.BrokerStub(channel)
        described = stub.Describe(pb.DescribeRequest(), timeout=TIMEOUT)
        queries = [value for value in pb.Query.values() if value != pb.QUERY_UNSPECIFIED]
        expect("the queries described", sorted(query.query for query in described.queries), sorted(queries))
        layers = {layer.name: layer.in_force for layer in described.layers}
        expect("the layer seccomp", layers.get("seccomp"), True)
        available = {query.query for query in described.queries if query.available}

        one_by_one = {}
        for query in queries:
            time.sleep(PAUSE)
            _, outcomes = read(stub, pb, [query])
            one_by_one |= outcomes
            answered = outcomes[query] in (pb.OUTCOME_OK, pb.OUTCOME_TRUNCATED)
            if answered and query not in available:
                fail(f"{pb.Query.Name(query)} is answered and described as unavailable")
        files, together = read(stub, pb, queries)
        expect("the outcomes of all queries at once", together, one_by_one)
        for query in (pb.QUERY_STAT, pb.QUERY_MEMINFO, pb.QUERY_LOADAVG):
            expect(pb.Query.Name(query), together[query], pb.OUTCOME_OK)

        for what, bad in (
            ("an unknown query", [9999]),
            ("an unspecified query", [pb.QUERY_UNSPECIFIED]),
            ("a repeated query", [pb.QUERY_STAT, pb.QUERY_STAT]),
            ("no query", []),
        ):
            time.sleep(PAUSE)
            call = lambda: stub.Read(pb.ReadRequest(queries=bad), timeout=TIMEOUT)
            expect(what, code_of(call), grpc.StatusCode.INVALID_ARGUMENT)
        reflect = channel.unary_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        expect("reflection", code_of(lambda: reflect(b"", timeout=TIMEOUT)), grpc.StatusCode.UNIMPLEMENTED)
    ok = sum(outcome == pb.OUTCOME_OK for outcome in together.values())
    print(f"grpc_client: {len(queries)} queries read, {ok} of them with data here, {files} files; 5 bad requests refused")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyhole-grpc-") as directory, Keyhole(arguments.binaries) as keyhole:
        pb, broker, health_pb, health = compile_protos(pathlib.Path(directory))
        check(keyhole.socket, pb, broker, health_pb, health)
        check_tunnel(keyhole.start_tunnel(), pb, broker)
        print("grpc_client: two clients through `keyhole-exporter connect` read and are refused as on the socket")


if __name__ == "__main__":
    main()
