from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import InvalidArguments
from etude.nn.position import ALiBi, Learned, NoPosition, Position, Rotary, Sinusoidal, alibi_slopes

ALL = [Learned, Sinusoidal, Rotary, ALiBi, NoPosition]


def make(cls: type[Position], **changes: object) -> Position:
    torch.manual_seed(0)
    return cls(**({"dim": 16, "heads": 2, "max_length": 32} | changes))


@pytest.mark.parametrize("cls", ALL)
def test_each_acts_in_one_place_only(cls):
    position = make(cls)
    x, q, k = torch.randn(2, 5, 16), torch.randn(2, 2, 5, 8), torch.randn(2, 1, 5, 8)
    acts = {
        "embed": not torch.equal(position.embed(x), x),
        "rotate": not all(map(torch.equal, position.rotate(q, k), (q, k))),
        "bias": position.bias(5, 5, like=x) is not None,
    }
    where = {Learned: "embed", Sinusoidal: "embed", Rotary: "rotate", ALiBi: "bias"}.get(cls)
    assert acts == {place: place == where for place in acts}


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("start", [1, 7])
def test_start_is_the_rest_of_a_longer_sequence(cls, start):
    position = make(cls).double()
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    q, k = torch.randn(2, 2, 2, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(
        position.embed(x[:, start:], start), position.embed(x)[:, start:], rtol=0, atol=0
    )
    turned = position.rotate(q[..., start:, :], k[..., start:, :], start)
    for rest, whole in zip(turned, position.rotate(q, k), strict=True):
        torch.testing.assert_close(rest, whole[..., start:, :], rtol=0, atol=0)
    bias = position.bias(12, 12, like=x)
    if bias is not None:
        rest = position.bias(12 - start, 12, like=x)
        torch.testing.assert_close(rest, bias[:, start:], rtol=0, atol=0)


@pytest.mark.parametrize("cls", ALL)
def test_only_learned_positions_end(cls):
    position = make(cls)
    x, q = torch.zeros(1, 40, 16), torch.zeros(1, 2, 40, 8)
    if cls is Learned:
        assert position.limit == 32
        with pytest.raises(InvalidArguments, match="at most 32 tokens, the number of learned"):
            position.embed(x)
        with pytest.raises(InvalidArguments, match="33"):
            position.embed(x[:, :1], start=32)
        assert position.embed(x[:, :1], start=31).shape == (1, 1, 16)
    else:
        assert position.limit is None
        assert position.embed(x).shape == x.shape
        assert position.rotate(q, q)[0].shape == q.shape


def test_learned_adds_its_rows():
    position = make(Learned, dim=256, max_length=512)
    assert position.weight.std().item() == pytest.approx(0.02, rel=0.02)
    x = torch.randn(2, 3, 256)
    torch.testing.assert_close(position.embed(x, start=4), x + position.weight[4:7])


def test_sinusoidal_by_hand():
    position = make(Sinusoidal, dim=4)
    rows = position.embed(torch.zeros(1, 3, 4, dtype=torch.float64))[0]
    expected = [
        [0.0, 1.0, 0.0, 1.0],
        [0.8414709848, 0.5403023059, 0.0099998333, 0.9999500004],  # sin 1, cos 1, sin .01, cos .01
        [0.9092974268, -0.4161468365, 0.0199986667, 0.9998000067],
    ]
    torch.testing.assert_close(rows, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("dim", [1, 7, 16])
def test_sinusoidal_equals_the_formula_at_any_length(dim):
    position = make(Sinusoidal, dim=dim, heads=1)
    rows = position.embed(torch.zeros(1, 3, dim), start=5000)[0]
    for row, t in zip(rows, range(5000, 5003), strict=True):
        for c in range(dim):
            angle = t / 10000 ** (2 * (c // 2) / dim)
            expected = math.cos(angle) if c % 2 else math.sin(angle)
            assert row[c].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_rotary_is_a_rotation_of_complex_numbers(base):
    position = make(Rotary, base=base)
    q = torch.randn(2, 2, 5, 8, dtype=torch.float64)
    k = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    t = torch.arange(3, 8, dtype=torch.float64)[:, None]
    angles = t * torch.tensor([base ** (-2 * i / 8) for i in range(4)], dtype=torch.float64)
    for x, turned in zip((q, k), position.rotate(q, k, start=3), strict=True):
        z = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * angles)
        torch.testing.assert_close(turned, torch.cat((z.real, z.imag), dim=-1))


@given(i=st.integers(0, 300), j=st.integers(0, 300), shift=st.integers(0, 3000))
@settings(max_examples=50, deadline=None)
def test_rotary_scores_depend_on_the_distance_alone(i, j, shift):
    position = make(Rotary)
    q, k = torch.randn(2, 1, 2, 1, 8, dtype=torch.float64)

    def score(a: int, b: int) -> torch.Tensor:
        return (position.rotate(q, q, start=a)[0] * position.rotate(k, k, start=b)[1]).sum(-1)

    torch.testing.assert_close(score(i, j), score(i + shift, j + shift), rtol=1e-9, atol=1e-9)


def test_rotary_is_accurate_far_away():
    """Angles of 100,000 radians lose two digits when computed in float32."""
    q = torch.randn(1, 1, 1, 8)
    near_exact = make(Rotary).rotate(q.double(), q.double(), start=100_000)[0]
    torch.testing.assert_close(
        make(Rotary).rotate(q, q, start=100_000)[0].double(), near_exact, rtol=1e-5, atol=1e-6
    )


def test_rotary_rounds_once_in_half_precision():
    q = torch.randn(1, 2, 64, 8).bfloat16()
    exact = make(Rotary).rotate(q.double(), q.double())[0]
    turned, _ = make(Rotary).bfloat16().rotate(q, q)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("cls", [Rotary, Sinusoidal])
def test_tables_made_while_generating_serve_training(cls):
    position = make(cls)
    x = torch.randn(1, 2, 6, 8, requires_grad=True)
    with torch.inference_mode():
        position.rotate(x, x)
        position.embed(x.flatten(0, 1).flatten(-2)[:, None, :16])
    q, k = position.rotate(x, x)
    (position.embed((q + k).reshape(1, 6, 16)) ** 2).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("cls", [Rotary, Sinusoidal])
def test_tables_follow_the_precision_of_what_they_meet(cls):
    """A model that was used in float32 is as exact in float64 as a new one."""
    position, other = make(cls), make(cls)
    x = torch.randn(1, 1, 6, 16, dtype=torch.float64)
    position.embed(x[0].float())
    position.rotate(x[..., :8].float(), x[..., 8:].float())
    assert torch.equal(position.embed(x[0]), other.embed(x[0]))
    q, k = x.split(8, dim=-1)
    assert torch.equal(position.rotate(q, k)[0], other.rotate(q, k)[0])


def test_tables_are_made_seldom():
    """Reading 1,000 positions one by one creates tables for 32, 64, ..., 1,024 positions."""
    position, sizes = make(Sinusoidal), []
    rows = position.rows.rows
    position.rows.rows = lambda t: (sizes.append(len(t)), rows(t))[1]
    for t in range(1000):
        position.embed(torch.zeros(1, 1, 16), start=t)
    assert sizes == [32, 64, 128, 256, 512, 1024]


@pytest.mark.parametrize("cls", [Rotary, Sinusoidal, ALiBi, NoPosition])
def test_fixed_positions_leave_no_trace_in_a_checkpoint(cls):
    position = make(cls)
    position.embed(torch.zeros(1, 50, 16))
    position.rotate(torch.zeros(1, 2, 50, 8), torch.zeros(1, 2, 50, 8))
    assert position.state_dict() == {}
    assert list(position.buffers()) == []


@pytest.mark.parametrize("cls", ALL)
def test_copies_agree(cls):
    position = make(cls)
    x, q = torch.randn(1, 4, 16), torch.randn(1, 2, 4, 8)
    position.embed(x)
    for other in (copy.deepcopy(position), pickle.loads(pickle.dumps(position))):
        torch.testing.assert_close(other.embed(x), position.embed(x))
        torch.testing.assert_close(other.rotate(q, q), position.rotate(q, q))


@pytest.mark.parametrize("cls", ALL)
def test_tables_follow_the_model_off_the_meta_device(cls):
    with torch.device("meta"):
        position = make(cls)
        assert position.embed(torch.zeros(1, 4, 16)).is_meta
        assert position.rotate(torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8))[0].is_meta
    if cls is not Learned:
        x, q = torch.randn(1, 4, 16), torch.randn(1, 2, 4, 8)
        torch.testing.assert_close(position.embed(x), make(cls).embed(x))
        torch.testing.assert_close(position.rotate(q, q), make(cls).rotate(q, q))


def test_alibi_slopes_of_the_paper():
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(16) == pytest.approx([2 ** (-n / 2) for n in range(1, 17)])
    assert alibi_slopes(1) == [2**-8]


def test_alibi_slopes_between_powers_of_two():
    """The slopes of 8 heads, then the first, third, ... of 16."""
    between = [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    assert alibi_slopes(12) == pytest.approx([*alibi_slopes(8), *between])
    for heads in range(1, 40):
        slopes = alibi_slopes(heads)
        assert len(slopes) == len(set(slopes)) == heads
        assert all(0 < slope < 1 for slope in slopes)


def test_alibi_bias_by_hand():
    bias = make(ALiBi, heads=2).bias(2, 4, like=torch.zeros(1))
    distances = torch.tensor([[2.0, 1.0, 0.0, 1.0], [3.0, 2.0, 1.0, 0.0]])
    torch.testing.assert_close(bias, torch.stack((-distances / 16, -distances / 256)))


def test_alibi_counts_exactly_in_half_precision():
    bias = make(ALiBi, heads=1).bias(1, 2000, like=torch.zeros(1, dtype=torch.bfloat16))
    assert (-bias * 256).flatten().tolist() == [float(d) for d in reversed(range(2000))]


@pytest.mark.parametrize(
    ("changes", "where"), [({"dim": 14}, "dim"), ({"base": 0.0}, "base"), ({"base": -1.0}, "base")]
)
def test_rotary_refuses(changes, where):
    with pytest.raises(InvalidArguments) as caught:
        make(Rotary, **changes)
    assert [problem.where for problem in caught.value.problems] == [where]
