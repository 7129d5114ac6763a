"""What a case must do is counted right, cases are timed in turn, and the table says what was asked."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CELLS, tiny, tiny_model

from argenzoo.benchmarking import command
from argenzoo.benchmarking.cases import KINDS, Case, Subject
from argenzoo.benchmarking.command import Settings, bench
from argenzoo.benchmarking.machine import Machine, measure
from argenzoo.benchmarking.peers import peer_of
from argenzoo.benchmarking.timing import interleaved, peak
from argenzoo.benchmarking.work import Counts, decoded, sampling, training
from argenzoo.cli import main
from argenzoo.errors import ArgenzooError
from argenzoo.recipe import load_recipe
from argenzoo.summary import cost, parameters_by_part

CPU = torch.device("cpu")
EVEN = Machine("even", 1.0, {"fp32": 1.0, "bf16": 2.0})


def test_a_raster_model_reads_its_weights_for_every_token():
    recipe = load_recipe("llamagen_b_256")
    counts, width, vocabulary = parameters_by_part(recipe), 768, recipe.tokenizer.config.vocab_size
    read = counts["generator"] + counts["head"] - vocabulary * width  # of the table of ids a row
    cached = 12 * 2 * width * sum(range(1, 257)) * 2  # keys and values of 12 layers, guided
    counts_of = Counts(recipe)
    one, eight = (sampling(counts_of, batch, "fp32", EVEN) for batch in (1, 8))
    assert one.moved == pytest.approx(4 * (256 * read + cached), rel=0.01)
    assert eight.moved - one.moved == pytest.approx(7 * 4 * cached, rel=0.01)
    assert one.flops == pytest.approx(cost(recipe).sample)
    assert eight.flops == pytest.approx(8 * one.flops)
    assert sampling(counts_of, 1, "bf16", EVEN).moved == pytest.approx(one.moved / 2)
    rounded = sampling(Counts(load_recipe("llamagen_b_256", {"sampling.execution.weights": "int8"})), 1, "fp32", EVEN)
    assert rounded.moved == pytest.approx(256 * read + 4 * cached, rel=0.01)


@pytest.mark.parametrize("name", CELLS)
def test_what_a_case_must_do(name: str):
    """FLOPs as ``argenzoo show`` has them; of training the numbers that move; of a head its weights as often as it is asked."""
    recipe = tiny(name)
    counts, found = Counts(recipe), cost(recipe)
    assert sampling(counts, 1, "fp32", EVEN).flops == pytest.approx(found.sample)
    assert decoded(counts, 1, "fp32", EVEN).flops == pytest.approx(found.sample + found.decode)
    step = training(counts, 3, "fp32", EVEN)
    assert step.flops == pytest.approx(3 * found.train)
    parameters = parameters_by_part(recipe)
    trained = parameters["total"] - parameters["tokenizer"]
    assert step.moved == 4 * 13 * trained  # two reads, a gradient, AdamW's seven, the averages' three
    assert step.least == pytest.approx(max(step.flops, 4 * 3 * trained) + 4 * 10 * trained)  # what moves in the passes is hidden, or hides
    only = Counts(tiny(name, {"train.only": ["head.*"], "train.ema": None}))
    assert training(only, 3, "fp32", EVEN).moved == 4 * (3 * trained + 7 * parameters["head"])
    width, depth, channels = 32, 2, 8  # of the tiny head over a width of 32
    once = 256 * width + width**2 + width**2 + depth * 3 * width**2 + 2 * width**2  # times, z, and their modulations
    each = channels * width + depth * 2 * width**2
    read = {
        "cross_entropy": width * 32,
        "diffusion": once + 4 * (each + width * 2 * channels),
        "flow": once + 7 * (each + width * channels),  # Heun asks twice a step, but for the last
    }
    assert counts.steps[0][1].weights == read[recipe.head.name]


def test_runs_are_timed_in_turn():
    order: list[str] = []
    seconds = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 3, CPU)
    assert "".join(order) == "abababab"
    assert {key: len(spent) for key, spent in seconds.items()} == {"a": 3, "b": 3}


def test_memory_is_the_runs_own():
    bytes_held = 64 << 20
    held = peak(lambda: torch.ones(bytes_held, dtype=torch.uint8).add_(1), CPU)
    if held is None:
        pytest.skip("this system does not say how much memory a process holds")
    assert 0.8 * bytes_held < held < 2 * bytes_held


def test_a_machine_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("argenzoo.benchmarking.machine.COPIED", {"cpu": 1 << 24})
    monkeypatch.setattr("argenzoo.benchmarking.machine.SIDE", {"cpu": 256})
    found = measure(CPU, ["fp32", "bf16"])
    assert 1e8 < found.bandwidth < 1e13
    assert set(found.rates) == {"fp32", "bf16"}
    assert 1e8 < found.rates["fp32"] < 1e14


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_can_be_timed(name: str, kind: str):
    """Sampling gives what the model gives; a training step changes the weights of its own copy."""
    model = tiny_model(name)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    subject = Subject(name, model)
    made = Case(name, kind, 2, "fp32").prepared(subject)()
    if kind == "pictures":
        assert torch.equal(made, model.generate([0, 1], seed=0))
    elif kind == "training":
        assert made["grad_norm"] > 0
        assert made["skipped"] == 0
        assert all(state["step"] == 1 for state in subject.player("fp32")[1].optimizer.state.values())
        Case(name, kind, 4, "fp32").prepared(subject)()  # another batch: the same weights and moments
        assert all(state["step"] == 2 for state in subject.player("fp32")[1].optimizer.state.values())
    else:
        assert made.shape[:2] == (2, model.space.num_tokens)
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(command, "measure", lambda device, precisions: Machine("a machine", 1e9, dict.fromkeys(precisions, 1e9)))
    for name in ("fruit_raster", "fruit_var"):
        (tmp_path / f"{name}.yaml").write_text(tiny(name).yaml())
    names = [str(tmp_path / f"{name}.yaml") for name in ("fruit_raster", "fruit_var")]
    options = ["--kinds", "tokens,training", "--batch", "1,2", "--precision", "fp32,bf16", "--rounds", "2", "--out", str(tmp_path / "out")]
    assert main(["bench", *names, *options]) == 0
    text = capsys.readouterr().out
    made = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert text.count("\n| ") == 2 + 2 * 2 * 2 * 2
    assert "a machine: 1.0 GB/s copied, 1 GFLOP/s in fp32, 1 GFLOP/s in bf16 (measured)" in text
    assert text.strip() == (tmp_path / "out" / "bench.md").read_text().strip()
    assert [len(row["seconds"]) for row in made["rows"]] == [2] * 16
    assert {row["kind"] for row in made["rows"]} == {"tokens", "training"}
    assert made["argenzoo"]
    assert main(["bench", *names, *options]) == 2  # nothing is overwritten
    assert "holds a result: choose another --out, or --overwrite" in capsys.readouterr().err


def test_variants_are_timed_beside_the_plain_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(command, "measure", lambda device, precisions: Machine("a machine", 1e9, dict.fromkeys(precisions, 1e9)))
    (tmp_path / "tiny.yaml").write_text(tiny("fruit_mar").yaml())
    name, few = str(tmp_path / "tiny.yaml"), "sampling.order.num_steps=1 sampling.head.num_steps=2"
    assert main(["bench", name, "--kinds", "tokens", "--rounds", "2", "--with", few, "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    plain, less = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    assert (plain["variant"], less["variant"]) == ("", few)
    assert less["work"]["flops"] < plain["work"]["flops"]
    assert f"{name}, sampling, batch 1, fp32, {few}: " in text
    assert " times as fast as without (" in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"variants": ["sampling.guidance=2", "sampling.guidance=2"]}, "--with takes one or more key=value, and no two alike"),
        ({"variants": ["sampling.guidence=2"]}, "did you mean 'guidance'"),
        ({"kinds": ["trainin"]}, "--kinds: unknown 'trainin'; did you mean 'training'"),
        ({"precisions": ["fp16"]}, "--precision: unknown 'fp16'"),
        ({"batches": [0]}, "--rounds and --batch must be at least 1"),
        ({"device": "cuda:9"}, "--device cuda:9"),
    ],
)
def test_mistakes(settings: dict, words: str):
    with pytest.raises(ArgenzooError) as caught:
        bench(["fruit_raster"], {}, Settings(**settings))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


THEIR_GPT = "autoregressive/models/gpt.py"
THEIRS = {  # stand-ins of the authors' repositories: the names, arguments and habits that an adapter depends on
    "fruit_raster": {
        THEIR_GPT: """
from dataclasses import dataclass
import torch
from utils.drop_path import DropPath
@dataclass
class ModelArgs:
    dim: int = 4096
    n_layer: int = 32
    n_head: int = 32
    cls_token_num: int = 1
    vocab_size: int = 16384
    block_size: int = 256
    token_dropout_p: float = 0.1
    resid_dropout_p: float = 0.1
    ffn_dropout_p: float = 0.1
    num_classes: int = 1000
    class_dropout_prob: float = 0.1
    rope_base: float = 10000
class Transformer(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.output = torch.nn.Linear(config.dim, config.vocab_size)
    def forward(self, idx, cond_idx, input_pos=None, targets=None, mask=None, valid=None):
        assert self.training and idx.shape == (2, 15) and cond_idx.shape == (2,) and targets.shape == (2, 16)
        logits = self.output(torch.randn(2, 16, self.config.dim))
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
""",
        "utils/drop_path.py": "DropPath = None",
        "autoregressive/models/generate.py": """
import torch
def generate(model, cond, max_new_tokens, emb_masks=None, cfg_scale=1.0, cfg_interval=-1, **sampling_kwargs):
    assert (model.config.dim, model.config.n_layer, model.config.vocab_size, max_new_tokens) == (32, 2, 32, 16)
    assert sampling_kwargs == {"temperature": 1.0, "top_k": 20, "top_p": 1.0, "sample_logits": True} and cfg_scale == 2.0
    assert model.output.weight.dtype == torch.float32
    print("talk " * 100_000)
    return torch.zeros(len(cond), max_new_tokens, dtype=torch.int)
""",
        "tokenizer/tokenizer_image/vq_model.py": """
import torch
class VQ(torch.nn.Module):
    def __init__(self, codebook_size, codebook_embed_dim):
        super().__init__()
    def decode_code(self, code, shape):
        assert shape == [2, 8, 4, 4]
VQ_models = {"VQ-4": VQ}
""",
    },
    "fruit_var": {
        "models/__init__.py": """
import os
import torch
def build_vae_var(device, patch_nums, num_classes, depth, shared_aln, attn_l2_norm, V=4096):
    torch.nn.Linear.reset_parameters = lambda self: None
    assert (patch_nums, num_classes, depth, shared_aln, attn_l2_norm) == ((1, 2, 4), 2, 2, False, True)
    vae = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(vae.weight, float("nan"))  # memory as it was
    return vae, Model(vae)
class Model(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.proxy, self.head = (vae,), torch.nn.Linear(32, 4096)
    def forward(self, label_B, x_BLCv_wo_first_l):
        assert self.training and label_B.shape == (2,) and x_BLCv_wo_first_l.shape == (2, 20, 32)
        return self.head(torch.nn.functional.pad(x_BLCv_wo_first_l, (0, 0, 1, 0)))
    def autoregressive_infer_cfg(self, B, label_B, g_seed=None, cfg=1.5, top_k=0, top_p=0.0):
        assert self.proxy[0].weight.isfinite().all() and os.environ["CUDA_VISIBLE_DEVICES"] == ""
        assert (B, len(label_B), cfg, top_k, top_p) == (2, 2, 2.0, 20, 0.0)
""",
        "models/var.py": "",
    },
    "fruit_mar": {
        "models/__init__.py": "",
        "models/mar.py": """
import torch
class MAR(torch.nn.Module):
    def __init__(self, img_size, vae_stride, patch_size, encoder_embed_dim, encoder_depth, encoder_num_heads, decoder_embed_dim,
                 decoder_depth, decoder_num_heads, norm_layer, vae_embed_dim, buffer_size, diffloss_d, diffloss_w, num_sampling_steps,
                 diffusion_batch_mul, attn_dropout, proj_dropout, mask_ratio_min, class_num, label_drop_prob):
        super().__init__()
        self.fixed = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.net = torch.nn.Linear(vae_embed_dim, 1)
        assert (encoder_depth, diffloss_w, num_sampling_steps, buffer_size) == (2, 32, "4", 3)
    def forward(self, imgs, labels):
        assert self.training and imgs.shape[2:] == (4, 4) and labels.shape == (2,)
        before, self.before = getattr(self, "before", None), self.net.weight.detach().clone()
        assert before is None or not before.equal(self.before)  # a step was made
        return self.net(imgs.flatten(2).transpose(1, 2)).square().mean()
    def sample_tokens(self, bsz, num_iter=64, cfg=1.0, cfg_schedule="linear", labels=None):
        assert (num_iter, cfg) == (5, 3.0)
        return torch.zeros(bsz).cuda()
""",
    },
}


@pytest.fixture
def checkout(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for file, text in THEIRS[request.param].items():
        (tmp_path / "theirs" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "theirs" / file).write_text(text)
    (tmp_path / f"{request.param}.yaml").write_text(tiny(request.param, THEIR_SIZES.get(request.param)).yaml())
    return tmp_path


VARIANT = "sampling.head.temperature=0.5"
THEIR_SIZES = {
    "fruit_var": {
        "generator.dim": 128, "tokenizer.vocab_size": 4096, "tokenizer.dim": 32, "tokenizer.channels": 160, "tokenizer.groups": 32,
        "sampling.ramp": "step",
        "generator.drop_path": 0.1 * 2 / 24,
    }
}  # fmt: skip


@pytest.mark.parametrize("checkout", THEIRS, indirect=True)
def test_an_authors_code_is_timed_in_turn(checkout: Path, capsys: pytest.CaptureFixture):
    """In a process of its own: what it does to torch is not done to ours, and what it prints is no answer."""
    reset, recipe = torch.nn.Linear.reset_parameters, next(checkout.glob("*.yaml"))
    options = ["--batch", "2", "--rounds", "2", "--with", VARIANT, "--peer", str(checkout / "theirs"), "--out", str(checkout / "out")]
    assert main(["bench", str(recipe), *options]) == 0
    text, made = capsys.readouterr().out, json.loads((checkout / "out" / "bench.json").read_text())
    assert torch.nn.Linear.reset_parameters is reset
    theirs = [row for row in made["rows"] if row["peer"]]
    assert len(theirs) == len(made["rows"]) - 2 * 3 > 0
    assert all(len(row["seconds"]) == 2 for row in theirs)
    lines = [line for line in text.splitlines() if "times as fast as" in line]
    assert len(lines) == 2 * len(theirs) + 3  # ours and the variant beside theirs, and the variant beside ours
    assert len([line for line in lines if f", {VARIANT}: " in line and "'s code" in line]) == len(theirs)


@pytest.mark.parametrize(("name", "file"), [("var_d16", "models/var.py"), ("llamagen_b_256", THEIR_GPT), ("mar_b", "models/mar.py")])
def test_published_recipes_can_be_built_in_their_code(name: str, file: str, tmp_path: Path):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text("")
    peer_of(tmp_path, load_recipe(name))


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("cifar10_var", {}, "generator.dim 160, there 320"),
        ("fruit_mar_flow", {}, "no author has code for mar, flow, class_labels"),
        ("llamagen_xl_t2i_256", {}, "no author has code for raster, cross_entropy, text_features"),
        ("mar_b", {"sampling.head.solver": "dpm"}, "sampling.head.solver dpm, there ancestral"),
        ("llamagen_b_256", {"generator.order": "random"}, "order random, there raster"),
        ("mar_b", {"train.checkpointing": True}, "train.checkpointing True, there False"),
        ("var_d16", {"generator.drop_path": 0.0}, "generator.drop_path 0.0, there 0.0667"),
    ],
)
def test_another_model_is_not_timed_in_their_place(name: str, overrides: dict, words: str, tmp_path: Path):
    for file in ("models/var.py", "models/mar.py", THEIR_GPT):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    with pytest.raises(ArgenzooError, match=words):
        peer_of(tmp_path, load_recipe(name, overrides), ["training"])


@pytest.mark.parametrize("checkout", ["fruit_var"], indirect=True)
def test_a_peer_without_effect(checkout: Path, capsys: pytest.CaptureFixture):
    assert main(["bench", str(checkout / "fruit_var.yaml"), "--kinds", "tokens", "--peer", str(checkout / "theirs")]) == 2
    assert "--peer has no effect: VAR's code is timed for --kinds pictures,training alone" in capsys.readouterr().err


@pytest.mark.parametrize("checkout", ["fruit_mar"], indirect=True)
def test_an_authors_code_that_does_not_run(checkout: Path, capsys: pytest.CaptureFixture):
    (checkout / "theirs" / "models" / "mar.py").write_text("import torch\nimport nowhere_to_be_found\n")
    words = ["bench", str(checkout / "fruit_mar.yaml"), "--kinds", "tokens", "--rounds", "1", "--peer"]
    for peer, expected in (
        (checkout / "theirs", "MAR's code does not run here: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (checkout, "no models/mar.py there; for 'fruit_mar' name a checkout of MAR's repository"),
    ):
        assert main([*words, str(peer)]) == 2
        error = capsys.readouterr().err
        assert expected in error.splitlines()[-1]


KEPT = """
import resource
import sys
import torch
from argenzoo.benchmarking.timing import NOW, resident
from argenzoo.device import give_memory_back, keep_memory
if sys.argv[1] == "kept":
    keep_memory()
for _ in range(3):
    torch.ones(2**24).sum()  # 64 MiB, freed
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
faults, held = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, resident(NOW)
give_memory_back()
print(faults, held - resident(NOW))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator that is set up")
def test_freed_memory_is_there_for_the_next_tensor():
    """No page of it is faulted in again; and it can be given back."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    made = [
        subprocess.run([sys.executable, "-c", KEPT, how], capture_output=True, text=True, check=True, env=environment).stdout.split()
        for how in ("plain", "kept")
    ]
    (plain, _), (kept, freed) = (map(int, numbers) for numbers in made)
    assert kept < 100 < 1000 < plain
    assert freed > 2**25
