"""What is TensorRT's own: addresses, streams, CUDA graphs, profiles, several tensors, element types, device memory."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from factories import make_spec, save_onnx
from gpu.figures import note
from gpu.networks import (
    SPEC,
    contract_batch,
    contract_network,
    contract_result,
    engine,
    foreign_engine,
    poison,
    save_network,
    views_nchw,
)
from onnx import TensorProto, helper

from bmf_trt_seg.backends import cuda_graphs, select_backend
from bmf_trt_seg.errors import ConfigError, EngineError, ModelError
from bmf_trt_seg.spec import ModelSpec, spec_path

torch = pytest.importorskip("torch")


def opened(path, spec=SPEC, **options):
    return select_backend("auto", path)(path, spec, **options).open()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def contract(folder, engines):
    return engine(contract_network(folder / "contract.onnx"), SPEC, batch=(1, 2, 5)).path


@pytest.fixture
def network(contract):
    with opened(contract) as backend:
        yield backend


# ------------------------------------------------------------------------------------------------- addresses, streams


def test_batch_is_taken_where_it_lies(network):
    for size in (1, 5, 2):
        batch = torch.from_numpy(contract_batch(size)).cuda()
        network.infer_on_device(batch)
        assert network._context.get_tensor_address("input") == batch.data_ptr()


def test_outputs_are_allocated_once(network):
    batch = torch.from_numpy(contract_batch(5)).cuda()
    first = network.infer_on_device(batch).data_ptr()
    assert {network.infer_on_device(batch[:size].contiguous()).data_ptr() for size in (1, 3, 5, 5)} == {first}
    assert network._context.get_tensor_address("output") == first


def test_stream_is_its_own(network, contract):
    with opened(contract) as other:
        streams = [network._stream.cuda_stream, other._stream.cuda_stream]
    assert 0 not in streams
    assert len({*streams, torch.cuda.default_stream().cuda_stream, torch.cuda.current_stream().cuda_stream}) == 3


def test_order_with_producer_and_consumer_without_waiting(network):
    side, expected = torch.cuda.Stream(), []
    sources = [torch.from_numpy(contract_batch(2, seed)).cuda() for seed in range(6)]
    given, results = torch.zeros_like(sources[0]), []
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        for seed, source in enumerate(sources):
            torch.cuda._sleep(20_000_000)  # clock cycles, some 10 ms
            given.copy_(source)
            scores = network.infer_on_device(given)
            results.append(scores.clone())
            given.fill_(float("nan"))
            scores.fill_(float("nan"))
            expected.append(contract_result(contract_batch(2, seed)))
        assert not side.query(), "infer_on_device waited for the GPU"
    side.synchronize()
    for scores, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(scores.cpu().numpy(), wanted, atol=1e-5)


def test_batch_that_is_freed_at_once(network):
    """PyTorch must not give its memory away before the engine has read it."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for seed in range(20):
            source = torch.from_numpy(contract_batch(4, seed)).pin_memory()
            scores = network.infer_on_device(source.to("cuda", non_blocking=True))
            junk = torch.full((4, 3, 8, 8), float("nan"), device="cuda")
            kept = scores.clone()
            side.synchronize()
            np.testing.assert_allclose(kept.cpu().numpy(), contract_result(contract_batch(4, seed)), atol=1e-5)
            del junk


# ---------------------------------------------------------------------------------------------------------- CUDA graphs


def test_third_run_replays_a_graph(network, contract):
    plain = select_backend("auto", contract)(contract, SPEC)
    plain.use_cuda_graphs = False
    with plain.open():
        batch = torch.from_numpy(contract_batch(3)).cuda()
        for _ in range(4):
            recorded = network.infer_on_device(batch).clone()
            direct = plain.infer_on_device(batch).clone()
            assert torch.equal(recorded, direct)
        assert network._graphs
        assert not plain._graphs
        batch.copy_(torch.from_numpy(contract_batch(3, seed=9)))  # at the same address
        assert torch.equal(network.infer_on_device(batch), plain.infer_on_device(batch))


def test_graph_of_another_batch_is_not_replayed(network):
    one, two = (torch.from_numpy(contract_batch(2, seed)).cuda() for seed in (1, 2))
    small = torch.from_numpy(contract_batch(1, 3)).cuda()
    order = [(one, 1)] * 4 + [(two, 2)] * 4 + [(one, 1)] * 2 + [(small, 3)] * 3 + [(two, 2), (one, 1), (small, 3)] * 2
    for batch, seed in order:
        scores = network.infer_on_device(batch).cpu().numpy()
        np.testing.assert_allclose(scores, contract_result(contract_batch(len(batch), seed)), atol=1e-5)
    assert len(network._graphs) == 3


def test_host_batches_replay_a_graph(network):
    for seed in range(5):
        batch = contract_batch(4, seed)
        np.testing.assert_allclose(network.infer(batch), contract_result(batch), atol=1e-5)
    assert network._graphs


def test_work_that_waits_is_not_recorded(network, monkeypatch):
    """CUDA refuses; the engine goes on without a graph, and nothing is left behind."""
    execute, batch = network._execute, torch.from_numpy(contract_batch(2)).cuda()

    def waiting() -> None:
        execute()
        torch.cuda.synchronize()

    monkeypatch.setattr(network, "_execute", waiting)
    for _ in range(4):
        scores = network.infer_on_device(batch).cpu().numpy()
        np.testing.assert_allclose(scores, contract_result(contract_batch(2)), atol=1e-5)
    assert not network._graphs
    with torch.cuda.stream(network._stream):
        kept = torch.zeros(3 << 20, device="cuda")
    pools = {segment["segment_pool_id"] for segment in torch.cuda.memory_snapshot()}
    assert pools == {(0, 0)}, "memory goes to the pool of a graph"
    del kept
    monkeypatch.undo()
    another = torch.from_numpy(contract_batch(4)).cuda()
    for _ in range(3):
        network.infer_on_device(another)
    assert network._graphs


def test_engines_run_without_the_drivers_binding(network, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "driver", None)
    batch = torch.from_numpy(contract_batch(2)).cuda()
    for _ in range(4):
        scores = network.infer_on_device(batch).cpu().numpy()
        np.testing.assert_allclose(scores, contract_result(contract_batch(2)), atol=1e-5)
    assert not network._graphs


def test_poisoned_outputs_are_overwritten(network):
    batch = torch.from_numpy(contract_batch(5)).cuda()
    for run in range(5):
        poison(network)
        assert not torch.isnan(network.infer_on_device(batch)).any(), f"run {run}"
        poison(network)
        assert not np.isnan(network.infer(contract_batch(5))).any(), f"run {run}"


# --------------------------------------------------------------------------------------------------------- one, shared


def test_instances_share_one_engine(contract):
    with opened(contract) as first, opened(contract, batch_size=3) as second:
        assert first._loaded is second._loaded
        for size in (1, 3, 2):
            batch = contract_batch(size, size)
            np.testing.assert_allclose(second.infer(batch), contract_result(batch), atol=1e-5)
            np.testing.assert_allclose(first.infer(batch), contract_result(batch), atol=1e-5)


def test_an_engine_that_cannot_be_shared_is_loaded_again(folder, engines):
    """As trtexec of TensorRT 8.6 builds them: a profile is for one context."""
    shapes = {"input": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}
    path = foreign_engine(contract_network(folder / "alone.onnx"), folder / "alone.plan", [shapes])
    with opened(path) as first, opened(path) as second:
        for backend in (first, second, first):
            batch = contract_batch(2)
            np.testing.assert_allclose(backend.infer(batch), contract_result(batch), atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- profiles


def test_least_batch_is_filled_up(folder, engines):
    path = engine(
        contract_network(folder / "least.onnx"),
        SPEC,
        shapes={"input": {"min": (2, 3, 8, 8), "opt": (4, 3, 8, 8), "max": (6, 3, 8, 8)}},
    ).path
    with opened(path) as backend:
        for size in (1, 2, 1, 1, 6, 1):
            batch = contract_batch(size, size)
            np.testing.assert_allclose(backend.infer(batch), contract_result(batch), atol=1e-5)
            scores = backend.infer_on_device(torch.from_numpy(batch).cuda())
            assert scores.shape == (size, 2, 8, 8)
            np.testing.assert_allclose(scores.cpu().numpy(), contract_result(batch), atol=1e-5)
        with pytest.raises(ConfigError, match="takes batches of at most 6, batch_size is 7: choose 6, or rebuild it: "):
            backend.infer(contract_batch(7))


def test_profile_that_fits_is_chosen(folder, engines):
    shapes = [((low, 3, 8, 8), (high, 3, 8, 8), (high, 3, 8, 8)) for low, high in [(1, 2), (3, 8)]]
    path = foreign_engine(
        contract_network(folder / "two.onnx"), folder / "two.plan", [{"input": shape} for shape in shapes]
    )
    for batch_size, sizes in [(1, (1, 2, 1)), (2, (2, 1)), (4, (4, 1, 8, 3, 3, 3)), (8, (8, 5))]:
        with opened(path, batch_size=batch_size) as backend:
            assert backend._profile == (0 if batch_size <= 2 else 1)
            for size in sizes:
                batch = contract_batch(size, size)
                np.testing.assert_allclose(backend.infer(batch), contract_result(batch), atol=1e-5)
                on_device = backend.infer_on_device(torch.from_numpy(batch).cuda()).cpu().numpy()
                np.testing.assert_allclose(on_device, contract_result(batch), atol=1e-5)
    with pytest.raises(ConfigError, match="takes batches of at most 8, batch_size is 9: choose 8"):
        opened(path, batch_size=9)


def test_pictures_of_several_sizes(folder, engines):
    model = save_onnx(folder / "sizes.onnx", np.ones((2, 3, 1, 1), np.float32), size_hw=("H", "W"))
    shapes = {"input": {"min": (1, 3, 8, 8), "opt": (2, 3, 16, 16), "max": (4, 3, 32, 32)}}
    path = engine(model, SPEC, shapes=shapes).path
    for height, width in [(8, 8), (32, 17)]:
        spec = make_spec(activation="none", input={"height": height, "width": width})
        with opened(path, spec) as backend:
            scores = backend.infer(np.full((3, 3, height, width), 0.5, np.float32))
        assert scores.shape == (3, 2, height, width)
        np.testing.assert_allclose(scores, 1.5, atol=1e-6)
    with pytest.raises(ModelError, match=r"takes pictures of 1x3x8x8 to 4x3x32x32 as 'input', .* says 1x3x64x64"):
        opened(path, make_spec(activation="none", input={"height": 64, "width": 64}))


# ---------------------------------------------------------------------------------------- several tensors, their types


@pytest.fixture(scope="module")
def several(folder, engines):
    """output = input's first channel * gain + offset + sum(list); 'other' = -output. Of 'list' any length."""
    model = save_network(
        folder / "several.onnx",
        [
            helper.make_node("Slice", ["input", "zero", "one", "one"], ["first"]),
            helper.make_node("Mul", ["first", "gain"], ["scaled"]),
            helper.make_node("Cast", ["offset"], ["offset_float"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["scaled", "offset_float"], ["shifted"]),
            helper.make_node("ReduceSum", ["list"], ["total"], keepdims=1),
            helper.make_node("Add", ["shifted", "total"], ["output"]),
            helper.make_node("Neg", ["output"], ["other"]),
        ],
        {
            "gain": (TensorProto.FLOAT, [1]),
            "input": (TensorProto.FLOAT, ["N", 3, 8, 8]),
            "offset": (TensorProto.INT32, [1]),
            "list": (TensorProto.FLOAT, ["M"]),
        },
        {"other": (TensorProto.FLOAT, ["N", 1, 8, 8]), "output": (TensorProto.FLOAT, ["N", 1, 8, 8])},
        {"zero": np.array([0], np.int64), "one": np.array([1], np.int64)},
    )
    return engine(model, make_spec(activation="none", constants={"gain": 2, "offset": 3, "list": 1})).path


def several_spec(**values):
    return make_spec(activation="none", **{"constants": {"gain": 2, "offset": 3, "list": 0.5}, **values})


@pytest.mark.parametrize(("name", "sign"), [("output", 1), ("other", -1)])
@pytest.mark.parametrize(("shapes", "total"), [(None, None), ({"list": (3,)}, 1.5)])
def test_inputs_beside_the_picture_and_the_output_that_is_named(several, name, sign, shapes, total):
    with opened(several, several_spec(output={"name": name}), input_shapes=shapes) as backend:
        for size in (2, 2, 2, 4):
            batch = contract_batch(size, size)
            wanted = sign * (batch[:, :1] * 2 + 3 + (size * 0.5 if total is None else total))
            np.testing.assert_allclose(backend.infer(batch), wanted, atol=1e-5)
            on_device = backend.infer_on_device(torch.from_numpy(batch).cuda()).cpu().numpy()
            np.testing.assert_allclose(on_device, wanted, atol=1e-5)


def test_tensors_that_the_description_has_wrong(several):
    with pytest.raises(ModelError, match=r"has no output 'scores', .*; it has: ('other', 'output'|'output', 'other')$"):
        opened(several, several_spec(output={"name": "scores"}))
    with pytest.raises(ModelError, match="wants more inputs than a picture: list"):
        opened(several, several_spec(constants={"gain": 2, "offset": 3}))
    with pytest.raises(ModelError, match="has no input 'prompt'"):
        opened(several, several_spec(constants={"gain": 2, "offset": 3, "list": 1, "prompt": 0}))


OUTPUTS = {
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "INT32": "int32",
    "INT64": "int32",
    "UINT8": "uint8",
    "BOOL": "bool",
}


@pytest.mark.parametrize("kind", list(OUTPUTS))
def test_output_types(folder, engines, kind):
    weights = np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1)
    model = save_onnx(folder / f"{kind}.onnx", weights, then="Cast", to=getattr(TensorProto, kind))
    path = engine(model, SPEC, precision="fp16" if kind == "FLOAT16" else "fp32").path
    batch = np.zeros((3, 3, 8, 8), np.float32)
    batch[:, 0] = np.arange(3 * 64).reshape(3, 8, 8) % 4 + 0.25
    batch[:, 0, 0, 0] = 0
    wanted = batch[:, :1].astype(OUTPUTS[kind])
    with opened(path) as backend:
        for _ in range(4):
            poison(backend)
            scores = backend.infer(batch)
            assert scores.dtype == OUTPUTS[kind]
            np.testing.assert_array_equal(scores, wanted)
            poison(backend)
            on_device = backend.infer_on_device(torch.from_numpy(batch).cuda())
            assert str(on_device.dtype) == f"torch.{OUTPUTS[kind]}"
            np.testing.assert_array_equal(on_device.cpu().numpy(), wanted)


def test_half_precision_goes_in(folder, engines):
    model = save_onnx(folder / "halves.onnx", np.ones((2, 3, 1, 1), np.float16))
    spec = make_spec(activation="none", input={"dtype": "float16"})
    with opened(engine(model, spec, precision="fp16").path, spec) as backend:
        scores = backend.infer(np.full((2, 3, 8, 8), 0.5, np.float16))
        assert scores.dtype == np.float16
        assert (scores == 1.5).all()
        with pytest.raises(EngineError, match=r"it is float32 .*expected float16"):
            backend.infer(np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(ModelError, match="takes float16, its description says float32"):
        opened(backend.model, SPEC)


def test_bytes_go_in_rows_last(folder, engines):
    model = save_network(
        folder / "bytes.onnx",
        [
            helper.make_node("Cast", ["input"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["floats"], ["output"], perm=[0, 3, 1, 2]),
        ],
        {"input": (TensorProto.UINT8, ["N", 8, 8, 3])},
        {"output": (TensorProto.FLOAT, ["N", 3, 8, 8])},
    )
    spec = make_spec(["a", "b", "c"], "none", input={"dtype": "uint8", "layout": "nhwc"})
    batch = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    with opened(engine(model, spec).path, spec) as backend:
        for _ in range(3):
            np.testing.assert_array_equal(backend.infer(batch), batch.transpose(0, 3, 1, 2).astype(np.float32))
            on_device = backend.infer_on_device(torch.from_numpy(batch).cuda()).cpu().numpy()
            np.testing.assert_array_equal(on_device, batch.transpose(0, 3, 1, 2).astype(np.float32))


# ---------------------------------------------------------------------------------------------------------- endurance

INFERENCES, WARM_UP, TOLERANCE_BYTES = 10_000, 300, 2 << 20


def used_bytes():
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return total - free


def test_two_instances_run_long_side_by_side(person, person_fp16):
    spec = ModelSpec.read(spec_path(person))
    pictures = views_nchw(8, spec)
    batches = [torch.from_numpy(part).cuda().contiguous() for part in (pictures[:4], pictures[4:])]
    backends = [opened(person_fp16, spec, batch_size=4) for _ in batches]
    expected = [
        {size: backend.infer_on_device(batch[:size].contiguous()).clone() for size in (4, 3)}
        for backend, batch in zip(backends, batches, strict=True)
    ]
    assert (expected[0][4] - expected[1][4]).abs().max() > 0.1, "cross-talk could not be seen"
    worst: dict[int, float] = {}
    failures: list[BaseException] = []

    def work(which: int, count: int) -> None:
        """As a stream would: mostly full batches where they lie, now and then others, and some from the host."""
        try:
            backend, batch = backends[which], batches[which]
            on_host, shorter = batch.cpu().numpy(), batch[:3].contiguous()
            difference = torch.zeros((), device="cuda")
            for run in range(count):
                if run % 97 == 0:
                    scores = torch.from_numpy(backend.infer(on_host)).cuda()
                elif run % 101 < 3:
                    scores = backend.infer_on_device(shorter)
                else:
                    scores = backend.infer_on_device(batch)
                difference = torch.maximum(difference, (scores - expected[which][len(scores)]).abs().max())
            torch.cuda.current_stream().synchronize()
            worst[which] = float(difference)
        except BaseException as error:
            failures.append(error)

    def both(count: int) -> float:
        def on_own_stream(which: int) -> None:
            with torch.cuda.stream(streams[which]):
                work(which, count)

        begin = time.monotonic()
        threads = [threading.Thread(target=on_own_stream, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        assert not failures, failures
        assert not any(thread.is_alive() for thread in threads)
        return time.monotonic() - begin

    streams = [torch.cuda.Stream() for _ in backends]
    torch.cuda.synchronize()
    both(WARM_UP)
    before = used_bytes()
    seconds = both(INFERENCES // 2)
    growth = used_bytes() - before
    note(
        "two instances",
        inferences=INFERENCES,
        seconds=round(seconds, 1),
        growth_bytes=growth,
        worst=max(worst.values()),
    )
    for backend in backends:
        backend.close()
    assert growth <= TOLERANCE_BYTES
    assert max(worst.values()) <= 1e-3  # of probabilities; another's picture differs by 0.1 and more


def test_opening_and_closing_leaves_no_memory(contract):
    def once():
        with opened(contract, batch_size=5) as backend:
            batch = torch.from_numpy(contract_batch(5)).cuda()
            for _ in range(3):
                backend.infer_on_device(batch)
            backend.infer(contract_batch(4))

    for _ in range(3):
        once()
    before = used_bytes()
    for _ in range(30):
        once()
    assert used_bytes() - before <= TOLERANCE_BYTES
