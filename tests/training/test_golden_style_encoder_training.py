"""Style Encoder's trainings against arrays that the published program's parts wrote on a tiny base.

They lie in the folder `dreamstyler_and_style_encoder` under STYLEBLEND_GOLDEN; every training case there is read, and a
line is printed for each.
"""
from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agreement import relative
from styleblend.adapters.new_style_encoder import trainable
from styleblend.adapters.style_encoders import load_style_encoder
from styleblend.base.base import load_base
from styleblend.base.style_prompts import with_style_tokens
from styleblend.base.weights import parameters
from styleblend.files.style_pictures import read_by_encoder
from styleblend.files.tensor_files import read_safetensors
from styleblend.machine.runtime import jt
from styleblend.settings.style_encoder_training import FinetuneSettings, InversionSettings, JointSettings
from styleblend.training.noise_loss import Noisy
from styleblend.training.optimiser import AdamW
from styleblend.training.style_encoder import (JointBatch, encoder_noise_loss, joint_terms, one_step_latents, partners,
                                               published_terms, regression_loss, text_of)
from styleblend.training.style_inversion import inversion_loss

ROOT = Path(os.environ.get("STYLEBLEND_GOLDEN", ""))
FOLDER = ROOT / "dreamstyler_and_style_encoder"
HERE = "STYLEBLEND_GOLDEN" in os.environ and (FOLDER / "style_encoder").is_dir()
pytestmark = pytest.mark.skipif(not HERE, reason="STYLEBLEND_GOLDEN names no folder with Style Encoder's arrays in it")
NEAR = 1e-4  # relative
CLASS = "vision_model.embeddings.class_embedding"


def of_name(pattern: str):
    return pytest.mark.parametrize("name", [p.stem for p in sorted(FOLDER.glob(f"{pattern}.npz"))] if HERE else [])


def case_of(name: str) -> tuple:
    case = np.load(FOLDER / f"{name}.npz")
    return case, json.loads(str(case["meta"]))


@pytest.fixture(scope="module")
def base():
    return load_base(ROOT / "base")


@pytest.fixture
def encoder(base):
    return trainable(load_style_encoder(FOLDER / "style_encoder", base))


def gradients(loss, named: dict) -> dict:
    return dict(zip(named, jt.grad(loss, list(named.values()))))


def read(encoder, pictures, fit="squash"):
    side = encoder.config.image_size
    return jt.array(np.stack([read_by_encoder(Image.fromarray(picture), side, fit) for picture in pictures]))


def placed(base, ids, count=8):
    return with_style_tokens(base.tokenizer(), ids, count)[0]


@of_name("se_stage1*")
def test_tokens_by_inversion(name, base, report):
    case, meta = case_of(name)
    steps, batch, count, width = case["vectors"][1:].shape
    vectors = jt.array(case["vectors"][0])
    optimiser = AdamW({"vectors": vectors}, InversionSettings(lr=meta["optimizer"]["lr"]))
    ids, worst = placed(base, case["ids"], count), {"loss": 0.0, "gradient": 0.0, "vectors": 0.0}
    for step in range(steps):
        noisy = Noisy(jt.array(case["latents"][step]), jt.array(case["noise"][step]), case["timesteps"][step])
        loss = inversion_loss(base, noisy, ids, vectors)
        found = {"loss": relative(loss.item(), case["loss"][step]),
                 "gradient": relative(jt.grad(loss, vectors), case["vector_grads"][step])}
        optimiser.update(loss)
        # the way that they went: the vectors themselves hardly move in a step
        start = case["vectors"][0]
        found["vectors"] = relative(vectors.numpy() - start, case["vectors"][step + 1] - start)
        worst = {key: max(worst[key], value) for key, value in found.items()}
    report(f"{name}: {steps} steps, relative errors: loss {worst['loss']:.1e}, gradients {worst['gradient']:.1e}, "
           f"way of the vectors {worst['vectors']:.1e}")
    assert worst["loss"] <= NEAR and worst["gradient"] <= NEAR and relative(vectors, case["vectors"][-1]) <= NEAR


def norms_agree(found: dict, meta: dict) -> float:
    """Largest relative error of the norms of gradients, but of those that are zero up to rounding."""
    expected = meta["grad_norms"]
    return max(abs(np.linalg.norm(found[name].numpy()) / norm - 1) for name, norm in expected.items()
               if name in found and norm > 1e-6)


@of_name("se_stage2*")
def test_regression(name, encoder, report):
    case, meta = case_of(name)
    named, targets = parameters(encoder), jt.array(case["targets"])
    best = None
    for fit in ("squash", "crop"):  # the pictures of a case may be square already
        pictures = read(encoder, case["pictures"], fit)
        error = relative(encoder(pictures), case["outputs"])
        best = min(best or (error, fit, pictures), (error, fit, pictures), key=lambda one: one[0])
    pictures = best[2]
    loss = regression_loss(encoder, pictures, targets)
    found = gradients(loss, named)
    errors = {"outputs": best[0], "loss": relative(loss.item(), meta["loss"]), "norms": norms_agree(found, meta)}
    for key, own in (("proj_weight", "proj.weight"), ("proj_bias", "proj.bias"), ("class_embedding", CLASS)):
        errors[key] = relative(found[own], case[f"grad_{key}"])
    AdamW(named, FinetuneSettings(lr=meta.get("optimizer", {}).get("lr", 1e-4))).update(loss)
    after = {"proj_bias_after": "proj.bias", "class_embedding_after": CLASS}
    errors.update({key: relative(named[own], case[key]) for key, own in after.items()})
    errors["loss_after"] = relative(regression_loss(encoder, pictures, targets).item(), meta["loss_after_step"])
    report(f"{name}: relative errors " + ", ".join(f"{key} {error:.1e}" for key, error in errors.items()))
    assert max(errors.values()) <= NEAR


@of_name("se_stage3*")
def test_finetuning(name, base, encoder, report):
    case, meta = case_of(name)
    noisy = Noisy(jt.array(case["latents"]), jt.array(case["noise"]), case["timesteps"])
    loss = encoder_noise_loss(base, encoder, noisy, placed(base, case["ids"]), read(encoder, case["pictures"]))
    found = gradients(loss, parameters(encoder))
    errors = {"loss": relative(loss.item(), meta["loss"]), "norms": norms_agree(found, meta),
              "proj_bias": relative(found["proj.bias"], case["grad_proj_bias"]),
              "class_embedding": relative(found[CLASS], case["grad_class_embedding"])}
    report(f"{name}: relative errors " + ", ".join(f"{key} {error:.1e}" for key, error in errors.items()))
    assert max(errors.values()) <= NEAR


def joint_batch(base, encoder, case, meta) -> JointBatch:
    noisy = Noisy(jt.array(case["latents"]), jt.array(case["noise"]), case["timesteps"])
    return JointBatch(noisy, placed(base, case["ids"]), read(encoder, case["pictures"]),
                      read(encoder, case["other_pictures"]), noisy.eps, meta["one_step_timestep"])


@of_name("se_joint*")
def test_joint_training_as_published(name, base, encoder, report):
    case, meta = case_of(name)
    batch, weights = joint_batch(base, encoder, case, meta), meta["weights"]
    projection = jt.array(read_safetensors(FOLDER / "style_encoder" / "model.safetensors")["visual_projection.weight"])
    terms = published_terms(base, encoder, batch, lambda pooled: jt.matmul(pooled, projection.transpose()))
    assert int(case["timesteps"][0]) // 2 == meta["one_step_timestep"]
    text = text_of(base, batch.ids, encoder(batch.others))
    errors = {"generated": relative(one_step_latents(base, batch.generated_from, batch.generated_at, text),
                                    case["generated_latents"])}
    total = sum(weights[key] * term for key, term in terms.items())
    errors.update({key: relative(term.item(), meta["losses"][key]) for key, term in {**terms, "total": total}.items()})
    bias = encoder.proj.bias
    for key, term in (("noise", terms["noise"]), ("total", total)):
        errors[f"gradient of {key}"] = relative(jt.grad(term, bias), case[f"grad_proj_bias_{key}"])
    norm = np.sqrt(sum(float((g * g).sum().item()) for g in jt.grad(total, list(parameters(encoder).values()))))
    errors["norm"] = relative(norm, meta["grad_norms"]["total"])
    report(f"{name}: relative errors " + ", ".join(f"{key} {error:.1e}" for key, error in errors.items()))
    assert max(errors.values()) <= NEAR


@of_name("se_joint*")
def test_our_terms_have_gradients(name, base, encoder):
    case, meta = case_of(name)
    batch = joint_batch(base, encoder, case, meta)
    published = published_terms(base, encoder, batch)
    assert not np.abs(jt.grad(published["content"], encoder.proj.bias).numpy()).any()
    terms = joint_terms(base, encoder, load_style_encoder(FOLDER / "style_encoder", base), batch)
    for key in ("noise", "style", "content"):
        assert np.abs(jt.grad(terms[key], encoder.proj.weight).numpy()).max() > 0, key


@of_name("se_pairs*")
def test_pairs_and_learning_rates(name, report):
    case, meta = case_of(name)
    for count in meta["sizes"]:
        found = np.stack([partners(count, epoch) for epoch in range(meta["epochs"])])
        assert (found == case[f"partner_n{count}"]).all()
    plain = FinetuneSettings(steps=meta["T_max"], lr=meta["lr"])
    joint = JointSettings(steps=meta["T_max"], lr=meta["lr"])
    errors = [relative([settings.rate(step) for step in range(len(case[key]))], case[key])
              for settings, key in ((plain, "lr_cosine"), (joint, "lr_cosine_joint"))]
    report(f"{name}: pairs exactly, learning rates {max(errors):.1e}")
    assert max(errors) <= NEAR
