"""RecLMIS at tiny width, its parameters counted and its equations by plain loops."""

import itertools
import math
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
    untrained = (".0.bias", "_scores.3.bias")

    @pytest.fixture
    def config(self, tiny_bert: str) -> dict[str, Any]:
        return tiny(tiny_bert)


OFF: dict[str, Any] = {"contrast": 0.0, "rebuild_text": 0.0, "rebuild_image": 0.0}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        # What training reaches in the public code. Its segmentation path registers 18,443,005,
        # of which 349,120 (a width's square and the width, of each skip) get no gradient; they
        # are not here. The convolution of 787,968 serves the words' weights alone.
        ({}, 60_677_951),
        (OFF, 18_443_005 - 349_120 - 787_968),
        (OFF | {"contrast": 0.2}, 18_443_005 - 349_120 + 526_338),
        (OFF | {"contrast": 0.2, "interaction": False}, 18_093_885 - 2 * 1_050_624 + 526_338),
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
        assert side == "patch" or (network.auxiliaries.mix is not None) is learned
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
    wanted_words = attend(interact.text_attention, words[0, :2], patches[0])
    torch.testing.assert_close(found_words[0, :2], wanted_words)
    # Patches attend to words that have attended to them.
    wanted = attend(interact.image_attention, patches[0], wanted_words)
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
    assert hidden[1::2].sum(dim=1).eq(1).all()  # 0.3 * 4 rounded down
    assert hide(log_weight, 0.45)[1::2].sum(dim=1).eq(1).all()  # 1.8 too
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

    def weighed(attention: nn.MultiheadAttention, x: Tensor, other: Tensor, w: Tensor) -> Tensor:
        """Attention of x [N, 8] to others that count by w [N, M]."""
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        q, k, v = (y @ z.T + b for y, z, b in zip((x, other, other), weights, biases, strict=True))
        attended = torch.zeros_like(x)
        for head in range(4):
            heads = slice(2 * head, 2 * head + 2)
            for n in range(len(x)):
                scores = torch.stack([q[n, heads] @ k[m, heads] / 2**0.5 for m in range(len(k))])
                share = scores.softmax(dim=0) * w[n]
                attended[n, heads] = (share / share.sum()) @ v[:, heads]
        result: Tensor = attention.out_proj(attended)
        return result

    def mlp(layer: Any, x: Tensor) -> Tensor:
        assert layer.linear1.out_features == 16
        result: Tensor = layer.linear2(layer.linear1(x).clamp(min=0))
        return result

    for attention in (reader.self_attn, rebuilder.self_attn, rebuilder.multihead_attn):
        nn.init.normal_(attention.in_proj_bias)
    before = weight.expand(4, -1).tril()
    memory = norm(other[0] + weighed(reader.self_attn, other[0], other[0], before))
    memory = norm(memory + mlp(reader, memory))
    seen = tokens[0].clone()
    seen[1] = 0
    seen = norm(seen + weighed(rebuilder.self_attn, seen, seen, torch.ones(3, 3).tril()))
    cross = rebuilder.multihead_attn
    seen = norm(seen + weighed(cross, seen, memory, weight.expand(3, -1)))
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


def test_terms_are_of_tokens_before_the_interaction(tiny_bert: str) -> None:
    torch.manual_seed(0)
    network = RecLMIS(**tiny(tiny_bert)).eval()
    nn.init.normal_(network.embed.position)
    assert network.interact is not None
    part = network.auxiliaries
    assert part.mix is not None
    assert part.word_scores is not None
    assert part.patch_scores is not None
    assert part.text is not None
    assert part.image is not None
    encoder, interact = watch(network.encoder), watch(network.interact)
    text, image = watch(part.text), watch(part.image)
    mix, scores = watch(part.mix), [watch(part.word_scores), watch(part.patch_scores)]
    _, terms = network.training_forward(images(), REPORTS)
    report, valid = network.text_encoder(REPORTS)
    ((_, (_, lowest)),) = encoder
    (((words, embedded, _), (attended_words, attended_patches)),) = interact
    patches = lowest.flatten(2).transpose(1, 2)
    assert (patches - embedded).abs().max() > 0.1
    # Weights are learnt from what the interaction gives, those of words after a convolution.
    ((mixed_from, mixed),) = mix
    assert torch.equal(mixed_from[0].transpose(1, 2)[valid], attended_words[valid])
    assert mixed_from[0].transpose(1, 2)[~valid].eq(0).all()
    (((scored_words,), word_scores),), (((scored_patches,), patch_scores),) = scores
    assert torch.equal(scored_words, mixed.transpose(1, 2))
    assert torch.equal(scored_patches, attended_patches)
    log_word = log_weights(word_scores[..., 0], valid)
    log_patch = patch_scores[..., 0].log_softmax(dim=1)
    contrast = contrast_loss(words, patches, log_word, log_patch)
    torch.testing.assert_close(terms["contrast"], 0.2 * contrast)
    # Each side is rebuilt from what is left of it and from the other one.
    (((seen_words, hidden_words, other, weight), rebuilt_words),) = text
    torch.testing.assert_close((seen_words, other, weight), (words, patches, log_patch))
    shares = (0.3 * valid.sum(dim=1)).floor().long().clamp(min=1)
    torch.testing.assert_close(hidden_words.sum(dim=1), shares)
    assert rebuilt_words.shape == (*valid.shape, BERT_WIDTH)
    wanted = (rebuilt_words - report)[valid].square().mean()
    torch.testing.assert_close(terms["rebuild_text"], wanted)
    (((seen_patches, hidden_patches, other, weight), rebuilt_patches),) = image
    torch.testing.assert_close((seen_patches, other, weight), (patches, words, log_word))
    assert hidden_patches.sum(dim=1).tolist() == [2, 2, 2]  # of 2 x 2 patches
    wanted = (rebuilt_patches - attended_patches).square().mean()
    torch.testing.assert_close(terms["rebuild_image"], wanted)


def test_contrast_needs_the_image(tiny_bert: str) -> None:
    """One image under three reports is found by chance, whatever is learnt."""
    torch.manual_seed(0)
    network = RecLMIS(**tiny(tiny_bert), contrast=1.0, rebuild_text=0.0, rebuild_image=0.0)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-2)
    same = images(1).expand(3, -1, -1, -1)
    for _ in range(30):
        _, terms = network.training_forward(same, REPORTS)
        optimizer.zero_grad()
        terms["contrast"].backward()
        optimizer.step()
    assert terms["contrast"].item() > math.log(3) - 1e-4


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


def test_decoder_gets_what_the_interaction_gives(tiny_bert: str) -> None:
    torch.manual_seed(0)
    network = RecLMIS(**tiny(tiny_bert)).eval()
    assert network.interact is not None
    interact = watch(network.interact)
    gates, levels = [watch(gate) for gate in network.gates], [watch(d) for d in network.decoder]
    network(images(), REPORTS)
    (((_, before, _), (_, patches)),) = interact
    assert (before - patches).abs().max() > 0.1
    # Two by two patches are the lowest map; no residual goes around the interaction.
    lowest = torch.stack([patches[:, :2], patches[:, 2:]], dim=1).permute(0, 3, 1, 2)
    assert torch.equal(levels[0][0][0][0], lowest)
    for gate, level in zip(gates, levels, strict=True):
        ((_, gated),), (((_, skip), _),) = gate, level
        assert torch.equal(skip, gated)


def test_terms_in_mixed_precision(tiny_bert: str) -> None:
    torch.manual_seed(0)
    network = RecLMIS(**tiny(tiny_bert))
    with torch.autocast("cpu", torch.bfloat16):
        _, terms = network.training_forward(images(), REPORTS)
    for name, term in terms.items():
        assert term.dtype == torch.float32, name
        assert torch.isfinite(term), name


def test_dropout_has_its_rate(tiny_bert: str) -> None:
    network = RecLMIS(**tiny(tiny_bert) | {"layers": 2, "dropout": 0.3})
    assert network.interact is not None
    assert dropouts(network.embed) == {0.3: 1}
    assert dropouts(network.interact) == {0.3: 2}
    # A layer that reads has three and one attention, one that rebuilds four and two.
    assert dropouts(network.auxiliaries) == {0.3: 2 * 2 * (4 + 6), 0.0: 2}
    network = RecLMIS(**tiny(tiny_bert) | {"dropout": 0.3, "score_dropout": 0.4})
    assert dropouts(network.auxiliaries)[0.4] == 2
