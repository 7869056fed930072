"""The diffusers folder that the program reads: text encoder, UNet, scheduler, tokenizer, index."""
import copy, json, shutil

from diffusers import DDIMScheduler
from safetensors.torch import save_file

MODEL_INDEX = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, "safety_checker": [None,
None], "feature_extractor": [None, None], "image_encoder": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"], "unet":
["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}


def scheduler():
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction")


def tokens(tok, texts):
    return tok(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def save_base(folder, text, unet, tokenizer):
    """All but the autoencoder; `tokenizer` is the folder to copy from, which may be the base's own."""
    save_text_encoder(text, folder / "text_encoder")
    copy.deepcopy(unet).half().save_pretrained(folder / "unet")
    scheduler().save_pretrained(folder / "scheduler")
    save_tokenizer(tokenizer, folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")


def save_text_encoder(text, folder):
    """With the `text_model.` prefix that every diffusers folder has: transformers 5 reads it, but writes it no more."""
    text.config.save_pretrained(folder)
    state = {k if k.startswith("text_model.") else f"text_model.{k}": v.half().contiguous()
             for k, v in text.state_dict().items() if not k.endswith("position_ids")}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def save_tokenizer(source, folder):
    """The vocabulary as it is, with one pad token in both files: SD 2.x pads with "!" (id 0)."""
    folder.mkdir(parents=True, exist_ok=True)
    if source.resolve() != folder.resolve():
        for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
            shutil.copy(source / name, folder / name)
    config = json.loads((source / "tokenizer_config.json").read_text())
    config["pad_token"] = "!"
    config.pop("special_tokens_map_file", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
