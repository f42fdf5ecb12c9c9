"""The task cycle with nothing but the server's reflection service: no generated code, no protocol files."""

import sys

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

address, hello, sleep = sys.argv[1:]
channel = grpc.insecure_channel(address)
database = ProtoReflectionDescriptorDatabase(channel)
service = DescriptorPool(database).FindServiceByName("vyr.control.v0.Control")


def call(name, **fields):
    method = service.methods_by_name[name]
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    rpc = kind(f"/{service.full_name}/{name}", request.SerializeToString, response.FromString)
    return rpc(request(**fields), timeout=30)


def status(task):
    return task.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[task.status].name


for method in service.methods:
    print("method", method.name)
task = call("SubmitTask", spec={"reference": hello, "args": ["one"]}).task
for change in call("WatchTask", id=task.id):
    print("watch", status(change.task))
for piece in call("StreamLogs", id=task.id, follow=True):
    for entry in piece.entries:
        for line in entry.data.decode().splitlines():
            print("log", line)
task = call("SubmitTask", spec={"reference": sleep}).task
for change in call("WatchTask", id=task.id):
    if status(change.task) == "TASK_STATUS_RUNNING":
        break
print("cancel", status(call("CancelTask", id=task.id, wait={"seconds": 20}).task))
try:
    call("GetTask", id="nonsense")
except grpc.RpcError as error:
    print("error", error.code().name, error.details())
