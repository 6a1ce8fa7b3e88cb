"""gRPC's server reflection: what a server has, told to people's tools (`grpcurl list`, `describe`).

The descriptors are those that the agent itself uses: the fields that it reads or writes, under the names of its own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from agent.protos import reflection_pb2
from agent.rpc.call import ServerCall
from agent.rpc.server import REFLECTION
from agent.rpc.status import Code, RpcError

Methods = Mapping[str, tuple[str, str]]  # path → full names of its messages, e.g. `remora.xds.Request`
OWN = dict.fromkeys(REFLECTION, ("remora.reflection.Request", "remora.reflection.Response"))


async def serve(call: ServerCall, methods: Methods, files: Iterable[FileDescriptor]) -> None:
    """ServerReflectionInfo. `files`: what the messages are made of."""
    book = Book({**methods, **OWN}, [*files, reflection_pb2.DESCRIPTOR])
    while (raw := await call.read()) is not None:
        try:
            request = reflection_pb2.Request.FromString(raw)
        except DecodeError as e:
            raise RpcError(Code.INVALID_ARGUMENT, "the request cannot be decoded") from e
        await call.write(book.answer(request).SerializeToString())


class Book:
    """Finds descriptors; every method streams both ways unless its name begins with Fetch."""

    def __init__(self, methods: Methods, files: Iterable[FileDescriptor]) -> None:
        self._pool = DescriptorPool()
        self._files: dict[str, bytes] = {}
        for file in files:
            self._add(file)
        messages = list(self._files)
        self._services = sorted({path.split("/")[1] for path in methods})
        for full in self._services:
            package, _, name = full.rpartition(".")
            proto = FileDescriptorProto(name=f"{full.replace('.', '/')}.proto", package=package, syntax="proto3")
            proto.dependency.extend(messages)
            service = proto.service.add(name=name)
            for path, (request, response) in methods.items():
                if path.split("/")[1] == full:
                    method = service.method.add(name=path.split("/")[2], input_type=f".{request}")
                    method.output_type = f".{response}"
                    method.client_streaming = method.server_streaming = not method.name.startswith("Fetch")
            self._keep(proto.name, proto.SerializeToString())

    def _add(self, file: FileDescriptor) -> None:
        if file.name not in self._files:
            for needed in file.dependencies:
                self._add(needed)
            self._keep(file.name, file.serialized_pb)

    def _keep(self, name: str, serialized: bytes) -> None:
        self._pool.AddSerializedFile(serialized)
        self._files[name] = serialized

    def answer(self, request: reflection_pb2.Request) -> reflection_pb2.Response:
        """What one request is told; what is not there is an error message, not the end of the call."""
        response = reflection_pb2.Response(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for service in self._services:
                    response.list_services_response.service.add(name=service)
            elif kind == "file_by_filename":
                self._tell(response, self._pool.FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                self._tell(response, self._containing(request.file_containing_symbol))
            elif kind == "all_extension_numbers_of_type":
                base = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                response.all_extension_numbers_response.base_type_name = base.full_name
            else:  # proto3 has no extensions
                raise KeyError(kind)
        except KeyError:
            response.error_response.error_code = Code.NOT_FOUND
            response.error_response.error_message = "this server has no such descriptor"
        return response

    def _containing(self, symbol: str) -> Any:
        owner, _, name = symbol.rpartition(".")
        if owner in self._services:  # a method, which the pool does not look for
            return self._pool.FindServiceByName(owner).methods_by_name[name].containing_service.file
        return self._pool.FindFileContainingSymbol(symbol)

    def _tell(self, response: reflection_pb2.Response, file: Any) -> None:
        """The file and all that it needs, so that nobody has to ask again."""
        wanted = [file.name]
        for name in wanted:
            wanted += (d.name for d in self._pool.FindFileByName(name).dependencies if d.name not in wanted)
        response.file_descriptor_response.file_descriptor_proto.extend(self._files[name] for name in wanted)
