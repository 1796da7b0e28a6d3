"""RecLMIS at tiny width, its parameters counted and its equations by plain loops."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizer

from lcpdn_pl.errors import ConfigError
from lcpdn_pl.models import RecLMIS
from lcpdn_pl.models.reclmis.auxiliaries import Reconstruction, contrast_loss, hide, log_weights
from lcpdn_pl.models.reclmis.network import Interaction
from tests.models.tester import REPORTS, NetworkTester, dropouts, images, watch

SWITCHES = ("interaction", "conditioned", "contrast", "rebuild_text", "rebuild_image")
BERT_WIDTH = 16


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(text_encoder: str) -> dict[str, Any]:
    return {
        "text_encoder": text_encoder,
        "image_size": 32,
        "width": 8,
        "layers": 1,
        "dropout": 0.0,
    }


@pytest.fixture(scope="module")
def clip_wide_bert(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text encoder whose tokens are 512 wide, as those of CLIP in the paper."""
    folder = tmp_path_factory.mktemp("wide")
    BertTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    config = BertConfig(
        vocab_size=128,
        hidden_size=512,
        num_hidden_layers=1,
        num_attention_heads=8,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


class TestRecLMIS(NetworkTester):
    method = "reclmis"
    # Batch norm takes away a bias before it, a softmax one that all its scores share.
    untrained = (".0.bias", "_scores.2.bias")

    @pytest.fixture
    def config(self, tiny_bert: str) -> dict[str, Any]:
        return tiny(tiny_bert)


OFF: dict[str, Any] = {"contrast": 0.0, "rebuild_text": 0.0, "rebuild_image": 0.0}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        # What training reaches in the public code. Its segmentation path registers 18,443,005,
        # of which 349,120 (a width's square and the width, of each skip) get no gradient; they
        # are not here.
        ({}, 60_677_951),
        (OFF, 18_443_005 - 349_120),
        (OFF | {"interaction": False, "contrast": 0.2}, 18_093_885 - 2_889_216 + 526_338),
    ],
)
def test_parameters_of_the_paper(options: dict[str, Any], wanted: int, clip_wide_bert: str) -> None:
    assert RecLMIS(clip_wide_bert, **options).count_parameters()[0] == wanted


def test_a_layer_of_each_stack_of_the_paper() -> None:
    with torch.device("meta"):
        part = Reconstruction(512, 512, layers=4, dropout=0.1)
    sizes = [sum(p.numel() for p in stack.parameters()) for stack in (part.rebuild, part.read)]
    assert sizes == [4 * 3_154_432, 4 * 2_102_784]
    assert not list(part.project.parameters())


@pytest.mark.parametrize("on", list(itertools.product([True, False], repeat=len(SWITCHES))))
def test_every_switch_leaves_nothing_dead(on: tuple[bool, ...], tiny_bert: str) -> None:
    flags = dict(zip(SWITCHES, on, strict=True))
    options: dict[str, Any] = {name: flags[name] for name in ("interaction", "conditioned")}
    factors: dict[str, Any] = {name: float(flags[name]) for name in OFF}
    if not any([flags["interaction"], *factors.values()]):
        with pytest.raises(ConfigError, match="nothing reads the report: expected one of them"):
            RecLMIS(**tiny(tiny_bert), **options, **factors)
        return
    torch.manual_seed(0)
    network = RecLMIS(**tiny(tiny_bert), **options, **factors)
    for side, term in (("word", "rebuild_image"), ("patch", "rebuild_text")):
        learned = flags["conditioned"] and (flags["contrast"] or flags[term])
        assert (getattr(network.auxiliaries, f"{side}_scores") is not None) is learned
    logits, terms = network.training_forward(images(2), REPORTS[:2])
    assert set(terms) == {name for name, factor in factors.items() if factor}
    torch.stack([logits.square().mean(), *terms.values()]).sum().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            if not any(part in name for part in TestRecLMIS.untrained):
                assert parameter.grad.abs().max() > 0, name


def test_terms_are_of_training_alone_and_have_their_weights(tiny_bert: str) -> None:
    found = []
    for factor in (1.0, 3.0):
        torch.manual_seed(0)
        network = RecLMIS(**tiny(tiny_bert), contrast=factor, rebuild_image=2 * factor)
        torch.manual_seed(1)
        network.eval()
        logits, terms = network.training_forward(images(), REPORTS)
        assert torch.equal(network(images(), REPORTS), logits)
        found.append(terms)
    torch.testing.assert_close(found[1]["contrast"], 3 * found[0]["contrast"])
    torch.testing.assert_close(found[1]["rebuild_image"], 3 * found[0]["rebuild_image"])
    torch.testing.assert_close(found[1]["rebuild_text"], found[0]["rebuild_text"])


def test_reports_reach_the_logits_through_the_interaction_alone(tiny_bert: str) -> None:
    for interaction in (True, False):
        torch.manual_seed(0)
        network = RecLMIS(**tiny(tiny_bert), interaction=interaction).eval()
        here, there = network(images(1), REPORTS[:1]), network(images(1), REPORTS[1:2])
        assert torch.equal(here, there) is not interaction


def attend(attention: nn.MultiheadAttention, query: Tensor, other: Tensor) -> Tensor:
    """Four heads written out; query [N, C], other [M, C]."""
    width = query.shape[1]
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, other, other), weights, biases, strict=True))
    result = torch.zeros_like(query)
    size = width // 4
    for head in range(4):
        part = slice(head * size, (head + 1) * size)
        for n in range(len(query)):
            scores = torch.stack([q[n, part] @ k[m, part] / size**0.5 for m in range(len(other))])
            result[n, part] = scores.softmax(dim=0) @ v[:, part]
    attended: Tensor = attention.out_proj(result)
    return attended


def test_interaction_by_loops() -> None:
    torch.manual_seed(0)
    interact = Interaction(8, dropout=0.5).eval()
    for attention in (interact.text_attention, interact.image_attention):
        nn.init.normal_(attention.in_proj_bias)
    words, patches = randn(1, 3, 8, seed=1), randn(1, 4, 8, seed=2)
    # Two valid words; what stands for padding makes no difference.
    valid = torch.tensor([[True, True, False]])
    found_words, found_patches = interact(words, patches, valid)
    attended = attend(interact.text_attention, words[0, :2], patches[0])
    weight, bias = interact.mix[0].parameters()
    mixed = torch.zeros(2, 8)
    for n in range(2):
        mixed[n] = bias
        for offset in (-1, 0, 1):
            if 0 <= n + offset < 2:
                mixed[n] += weight[:, :, offset + 1] @ attended[n + offset]
    # Fresh running statistics: mean 0 and variance 1.
    mixed = (mixed / (1 + 1e-5) ** 0.5).clamp(min=0)
    torch.testing.assert_close(found_words[0, :2], mixed)
    wanted = attend(interact.image_attention, patches[0], mixed)
    torch.testing.assert_close(found_patches[0], wanted)


def test_hidden_tokens_are_drawn_by_weight() -> None:
    torch.manual_seed(0)
    valid = torch.tensor([[True] * 10, [True] * 4 + [False] * 6]).repeat(2000, 1)
    scores = torch.zeros(2, 10)
    scores[:, 0] = math.log(3)  # w_0 = 3/12 and 3/6
    log_weight = log_weights(scores.repeat(2000, 1), valid)
    assert log_weight[0].exp().tolist() == pytest.approx([3 / 12] + [1 / 12] * 9)
    hidden = hide(log_weight, 0.3)
    assert hidden[0::2].sum(dim=1).eq(3).all()  # 0.3 * 10
    assert hidden[1::2].sum(dim=1).eq(1).all()  # 0.3 * 4 rounded
    assert not hidden[~valid].any()
    assert hidden[1::2].float().mean(dim=0)[:4].tolist() == pytest.approx(
        [3 / 6, 1 / 6, 1 / 6, 1 / 6], abs=0.04
    )
    # The second and third draw are without replacement: 1 - P(0 is never drawn).
    wanted = 1 - 9 / 12 * 8 / 11 * 7 / 10
    assert hidden[0::2, 0].float().mean().item() == pytest.approx(wanted, abs=0.04)
    assert hide(log_weight, 0.01).sum(dim=1).eq(1).all()


def test_reconstruction_weighs_the_other_side_by_loops() -> None:
    torch.manual_seed(0)
    part = Reconstruction(8, 5, layers=1, dropout=0.5).eval()
    tokens, other = randn(1, 3, 8, seed=1), randn(1, 4, 8, seed=2)
    hidden = torch.tensor([[False, True, False]])
    weight = torch.tensor([0.5, 0.3, 0.2, 0.0])
    reader, rebuilder = part.read.layers[0], part.rebuild.layers[0]

    def norm(x: Tensor) -> Tensor:
        return F.layer_norm(x, (8,))

    def causal(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
        return torch.cat([attend(attention, x[n : n + 1], x[: n + 1]) for n in range(len(x))])

    def mlp(layer: Any, x: Tensor) -> Tensor:
        assert layer.linear1.out_features == 16
        result: Tensor = layer.linear2(layer.linear1(x).clamp(min=0))
        return result

    memory = norm(other[0] + causal(reader.self_attn, other[0]))
    memory = norm(memory + mlp(reader, memory))
    seen = tokens[0].clone()
    seen[1] = 0
    seen = norm(seen + causal(rebuilder.self_attn, seen))
    cross = rebuilder.multihead_attn
    q, k, v = (
        x @ w.T for x, w in zip((seen, memory, memory), cross.in_proj_weight.chunk(3), strict=True)
    )
    attended = torch.zeros(3, 8)
    for head in range(4):
        heads = slice(2 * head, 2 * head + 2)
        for n in range(3):
            scores = torch.stack([q[n, heads] @ k[m, heads] / 2**0.5 for m in range(4)])
            weighed = scores.softmax(dim=0) * weight
            attended[n, heads] = (weighed / weighed.sum()) @ v[:, heads]
    seen = norm(seen + cross.out_proj(attended))
    wanted = part.project(norm(seen + mlp(rebuilder, seen)))
    found = part(tokens, hidden, other, weight.log()[None])
    assert found.shape == (1, 3, 5)
    torch.testing.assert_close(found[0], wanted)
    # In a batch each image has its own weights.
    both = torch.stack([weight.flip(0), weight]).log()
    found = part(tokens.expand(2, -1, -1), hidden.expand(2, -1), other.expand(2, -1, -1), both)
    torch.testing.assert_close(found[1], wanted)
    assert (found[0] - wanted).abs().max() > 1e-3


def test_contrast_by_loops() -> None:
    words, patches = randn(3, 4, 8, seed=1), randn(3, 5, 8, seed=2)
    valid = torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] * 3 + [False]])
    log_word = log_weights(randn(3, 4, seed=3), valid)
    log_patch = log_weights(randn(3, 5, seed=4), torch.ones(3, 5, dtype=torch.bool))
    scores = torch.zeros(3, 3)
    for a in range(3):
        count = int(valid[a].sum())
        for b in range(3):
            cosines = torch.tensor(
                [[F.cosine_similarity(t, x, dim=0) for x in patches[b]] for t in words[a, :count]]
            )
            for n in range(count):
                scores[a, b] += 0.5 * log_word[a, n].exp() * cosines[n].max()
            for p in range(5):
                scores[a, b] += 0.5 * log_patch[b, p].exp() * cosines[:, p].max()
    wanted = 0.0
    for k in range(3):
        for side in (scores[k], scores[:, k]):
            wanted -= (100 * side[k] - (100 * side).logsumexp(dim=0)).item() / 6
    found = contrast_loss(words, patches, log_word, log_patch)
    assert found.item() == pytest.approx(wanted, rel=1e-4)
    same = words[:, :1]
    assert contrast_loss(same, same, torch.zeros(3, 1), torch.zeros(3, 1)) < 1e-3


def test_rebuilt_are_the_hidden_tokens(tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = RecLMIS(**tiny(tiny_bert), contrast=0.0).eval()
    hidden: list[Tensor] = []

    def keep(log_weight: Tensor, share: float) -> Tensor:
        hidden.append(hide(log_weight, share))
        return hidden[-1]

    monkeypatch.setattr("lcpdn_pl.models.reclmis.auxiliaries.hide", keep)
    rebuilt: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _m, inputs, output: rebuilt.update({name: (inputs[0], output)})

    auxiliaries = network.auxiliaries
    assert auxiliaries.text is not None
    assert auxiliaries.image is not None
    auxiliaries.text.register_forward_hook(note("text"))
    auxiliaries.image.register_forward_hook(note("image"))
    _, terms = network.training_forward(images(), REPORTS)
    report, valid = network.text_encoder(REPORTS)
    assert rebuilt["text"][1].shape == (*valid.shape, BERT_WIDTH)
    shares = [mask.sum(dim=1) for mask in hidden]
    torch.testing.assert_close(shares[0], (0.3 * valid.sum(dim=1)).round().long().clamp(min=1))
    assert shares[1].tolist() == [2, 2, 2]  # of 2 x 2 patches
    for name, mask, target in (
        ("text", hidden[0], report),
        ("image", hidden[1], rebuilt["image"][0]),
    ):
        errors = [
            (rebuilt[name][1][b, n] - target[b, n]).square().mean() for b, n in mask.nonzero()
        ]
        torch.testing.assert_close(terms[f"rebuild_{name}"], torch.stack(errors).mean())


def test_bad_use_is_told(tiny_bert: str) -> None:
    network = RecLMIS(**tiny(tiny_bert))
    with pytest.raises(ConfigError, match=r"2 images or more, found 1\. Set data\.batch_size"):
        network.training_forward(images(1), REPORTS[:1])
    _, terms = RecLMIS(**tiny(tiny_bert), contrast=0.0).training_forward(images(1), REPORTS[:1])
    assert set(terms) == {"rebuild_text", "rebuild_image"}
    with pytest.raises(ConfigError, match=r"rebuild_text is -1.*0 \(the term is left out\)"):
        RecLMIS(**tiny(tiny_bert), rebuild_text=-1.0)
    with pytest.raises(ConfigError, match=r"hidden_words is 1\.0: expected a share between"):
        RecLMIS(**tiny(tiny_bert), hidden_words=1.0)


def test_decoder_and_terms_get_what_the_interaction_gives(tiny_bert: str) -> None:
    torch.manual_seed(0)
    network = RecLMIS(**tiny(tiny_bert)).eval()
    assert network.interact is not None
    interact, terms = watch(network.interact), watch(network.auxiliaries)
    gates, levels = [watch(gate) for gate in network.gates], [watch(d) for d in network.decoder]
    network.training_forward(images(), REPORTS)
    (((_, before, _), (words, patches)),) = interact
    (((seen_words, seen_patches, *_), _),) = terms
    assert torch.equal(seen_words, words)
    assert torch.equal(seen_patches, patches)
    assert (before - patches).abs().max() > 0.1
    # Two by two patches are the lowest map; no residual goes around the interaction.
    lowest = torch.stack([patches[:, :2], patches[:, 2:]], dim=1).permute(0, 3, 1, 2)
    assert torch.equal(levels[0][0][0][0], lowest)
    for gate, level in zip(gates, levels, strict=True):
        ((_, gated),), (((_, skip), _),) = gate, level
        assert torch.equal(skip, gated)


def test_dropout_has_its_rate(tiny_bert: str) -> None:
    network = RecLMIS(**tiny(tiny_bert) | {"layers": 2, "dropout": 0.3})
    assert network.interact is not None
    assert dropouts(network.embed) == {0.3: 1}
    assert dropouts(network.interact) == {0.3: 2}
    # A layer that reads has three and one attention, one that rebuilds four and two.
    assert dropouts(network.auxiliaries) == {0.3: 2 * 2 * (4 + 6)}
