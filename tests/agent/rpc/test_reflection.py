"""Server reflection, asked by a real gRPC client as `grpcurl` asks."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_database import DescriptorDatabase
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from agent.protos import reflection_pb2, xds_pb2
from agent.rpc.reflection import Book
from agent.rpc.sending import Limits
from agent.rpc.server import REFLECTION, Server, reflecting

NAME = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHODS = {
    f"/{NAME}/StreamAggregatedResources": ("remora.xds.Request", "remora.xds.Response"),
    f"/{NAME}/FetchSomething": ("remora.xds.Request", "remora.xds.Response"),
}


def ask(**what: Any) -> reflection_pb2.Response:
    return Book(METHODS, [xds_pb2.DESCRIPTOR]).answer(reflection_pb2.Request(host="h", **what))


def pool_of(response: reflection_pb2.Response) -> DescriptorPool:
    known = DescriptorDatabase()
    for file in response.file_descriptor_response.file_descriptor_proto:
        known.Add(FileDescriptorProto.FromString(file))
    return DescriptorPool(known)


def test_services_are_listed() -> None:
    response = ask(list_services="*")
    assert [s.name for s in response.list_services_response.service] == [NAME]
    assert (response.valid_host, response.original_request.list_services) == ("h", "*")


@pytest.mark.parametrize("symbol", [NAME, f"{NAME}.StreamAggregatedResources"])
def test_a_service_can_be_called_with_what_is_told(symbol: str) -> None:
    service = pool_of(ask(file_containing_symbol=symbol)).FindServiceByName(NAME)
    method = service.methods_by_name["StreamAggregatedResources"]
    assert method.client_streaming
    assert method.server_streaming
    assert not service.methods_by_name["FetchSomething"].server_streaming
    assert {f.name: f.number for f in method.input_type.fields}["response_nonce"] == 5
    assert method.output_type.fields_by_name["resources"].message_type.fields_by_name["type_url"].number == 1


@pytest.mark.parametrize(
    "what",
    [
        {"file_by_filename": "../../etc/passwd"},
        {"file_containing_symbol": "no.such.Thing"},
        {"file_containing_symbol": f"{NAME}.NoSuchMethod"},
        {"file_containing_symbol": ""},
        {"file_containing_extension": {"containing_type": "remora.xds.Request", "extension_number": 1}},
        {"all_extension_numbers_of_type": "x"},
        {},
    ],
)
def test_what_is_not_there_is_said_so(what: dict[str, Any]) -> None:
    assert ask(**what).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_files_and_types_by_name() -> None:
    response = ask(file_by_filename="agent/protos/xds.proto")
    assert pool_of(response).FindMessageTypeByName("remora.xds.Node").fields_by_name["id"].number == 1
    told = ask(all_extension_numbers_of_type="remora.xds.Request").all_extension_numbers_response
    assert (told.base_type_name, list(told.extension_number)) == ("remora.xds.Request", [])


@pytest.mark.parametrize("path", REFLECTION)
def test_a_real_client(tmp_path: Path, path: str) -> None:
    async def main() -> None:
        server = Server(reflecting(lambda: (METHODS, [xds_pb2.DESCRIPTOR])), Limits())
        server.bind(str(tmp_path / "s"))
        serving = asyncio.ensure_future(server.run())
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            call = channel.stream_stream(
                path,
                request_serializer=reflection_pb2.Request.SerializeToString,
                response_deserializer=reflection_pb2.Response.FromString,
            )()
            await call.write(reflection_pb2.Request(list_services=""))
            listed = (await call.read()).list_services_response.service
            assert [s.name for s in listed] == sorted([NAME, *(p.split("/")[1] for p in REFLECTION)])
            for s in listed:
                await call.write(reflection_pb2.Request(file_containing_symbol=s.name))
                assert pool_of(await call.read()).FindServiceByName(s.name).methods
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
            broken = channel.stream_stream(path)()
            await broken.write(b"\xff\xff")
            assert await broken.code() is grpc.StatusCode.INVALID_ARGUMENT
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(main())
