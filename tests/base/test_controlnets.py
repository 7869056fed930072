"""ControlNets: a folder beside a base, loaded strictly; what is another model's is named."""
import json
import shutil

import numpy as np
import pytest

from reference import seeded
from styleblend.base.controlnets import load_controlnet
from styleblend.errors import StyleBlendError
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext
from styleblend.models.rows import Rows


def changed(folder, tmp_path, **values):
    """The same folder with other values in its config; None takes a key out."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    config = {**json.loads((folder / "config.json").read_text()), **values}
    (copy / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return copy


def test_the_text_and_the_picture_are_read(tiny_controlnet, tiny_base):
    network, rows = load_controlnet(tiny_controlnet, tiny_base), Rows({"target": 2}, ("negative", "full"))
    x, text = (jt.array(seeded.values(f"controlnet/{name}", shape))
               for name, shape in (("x", (2, 4, 8, 8)), ("t", (4, 77, 32))))
    pictures = [jt.array(np.clip(seeded.values(f"controlnet/p{n}", (1, 3, 64, 64)), 0, 1)) for n in range(2)]
    with jt.no_grad():
        found = [network(x, 501, text, network.embedded(one), AttentionContext(rows)) for one in pictures]
        # rows of one condition stand for all until the text comes in: the same as with all rows written out
        twice = network(jt.concat([x, x]), 501, text, network.embedded(pictures[0]), AttentionContext(rows))
        half = network(x, 501, text, network.embedded(pictures[0]), AttentionContext(rows), strength=0.5)
        guess = network(x, 501, text, network.embedded(pictures[0]), AttentionContext(rows), guess=True)
    assert len(found[0].down) == 12 and found[0].mid.shape[0] == 4
    for one, other, whole in zip(found[0].down, found[1].down, twice.down):
        assert np.abs((one - other).numpy()).max() > 1e-4
        np.testing.assert_allclose(np.concatenate([one.numpy()] * (whole.shape[0] // one.shape[0])), whole.numpy(),
                                   atol=1e-5)
    np.testing.assert_allclose(half.mid.numpy(), found[0].mid.numpy() / 2, rtol=1e-5)
    factors = [float((a.numpy() / b.numpy()).mean()) for a, b in zip((*guess.down, guess.mid),
                                                                     (*found[0].down, found[0].mid))]
    np.testing.assert_allclose(factors, np.logspace(-1, 0, 13), rtol=1e-4)


@pytest.mark.parametrize("values, message", [
    ({"cross_attention_dim": 768}, "a ControlNet of Stable Diffusion 1.x"),
    ({"cross_attention_dim": 2048}, "a ControlNet of SDXL"), ({"addition_embed_type": "text_time"}, "SDXL"),
    ({"cross_attention_dim": 64}, "a ControlNet of another model"),
    ({"_class_name": "ControlNetXSAdapter"}, "ControlNetXSAdapter"),
    ({"_class_name": "UNet2DConditionModel"}, "UNet2D"),
    ({"use_linear_projection": None}, "2.x"), ({"global_pool_conditions": True}, "global_pool_conditions is True"),
    ({"layers_per_block": 3}, "does not fit the base"), ({"conditioning_channels": 4}, "conditioning_channels is 4"),
    ({"conditioning_embedding_out_channels": [4, 8, 8, 32]}, "does not fit its config.json"),
])
def test_another_models_is_named(tiny_controlnet, tiny_base, tmp_path, values, message):
    with pytest.raises(StyleBlendError, match=message):
        load_controlnet(changed(tiny_controlnet, tmp_path, **values), tiny_base)


def test_what_is_not_whole_is_said(tiny_controlnet, tiny_base, tmp_path):
    with pytest.raises(StyleBlendError, match="is no ControlNet"):
        load_controlnet(tmp_path / "nothing", tiny_base)
    copy = changed(tiny_controlnet, tmp_path)
    weights = copy / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StyleBlendError, match="no whole safetensors file"):
        load_controlnet(copy, tiny_base)
    weights.unlink()
    with pytest.raises(StyleBlendError, match="holds no diffusion_pytorch_model"):
        load_controlnet(copy, tiny_base)
