"""Hints for error messages: the keys of Étude that correspond to names from other tools."""

from __future__ import annotations

import re
from pathlib import PurePath

_CONTINUES = (
    "to continue a run, repeat its `etude train` command; to start from its weights, set "
    "init_from=RUN"
)

_MEANINGS: dict[str, str] = {
    "optimizer.lr": "lr learning_rate base_lr max_lr eta",
    "optimizer.weight_decay": "weight_decay wd",
    "optimizer=NAME": "optim optimiser",
    "schedule=NAME": "scheduler lr_scheduler lr_scheduler_type lr_schedule",
    "schedule.warmup_steps": "warmup warmup_steps warmup_iters num_warmup_steps",
    "schedule.final_scale": "min_lr final_lr",
    "data.batch.examples": "batch_size batch bs train_batch_size global_batch_size",
    "trainer.micro_batch": (
        "micro_batch micro_batch_size per_device_train_batch_size device_batch_size"
    ),
    "data.batch.examples and trainer.micro_batch": (
        "gradient_accumulation_steps accumulate_grad_batches grad_accum accumulation_steps"
    ),
    "data.sequence_length": (
        "block_size context_length seq_len seq_length sequence_length max_seq_length "
        "max_seq_len ctx_len n_positions max_position_embeddings"
    ),
    "data.workers": "num_workers workers dataloader_num_workers",
    "data=text_files data.path=..., or data=labelled_files data.path=...": (
        "path data_path file files data_file data_files train_file dataset_path data_dir corpus "
        "text_file filename"
    ),
    "data=NAME": "dataset datamodule data_module",
    "data/tokenizer=NAME": "tokenizer",
    "data.validation": "val validation val_split validation_split validation_file",
    "data.order": "shuffle",
    "model.layers": "layers n_layer n_layers num_layers num_hidden_layers depth",
    "model.heads": "heads n_head n_heads num_heads num_attention_heads nhead",
    "model.dim": "dim n_embd hidden_size d_model embed_dim hidden_dim width hidden",
    "model.dropout": "dropout dropout_rate hidden_dropout_prob",
    "model/position=NAME": "position positional_encoding pos_encoding rope",
    "model/attention=NAME": "attention attn attn_implementation",
    "trainer.max_epochs=N trainer.max_steps=null": "epochs num_epochs num_train_epochs max_epochs",
    "trainer.max_steps": "steps max_steps max_iters iterations num_steps num_train_steps",
    "trainer.val_check_interval": "eval_interval eval_steps eval_every val_interval eval_freq",
    "trainer.log_every_n_steps": "log_interval logging_steps log_every",
    "trainer.gradient_clip_val": "grad_clip max_grad_norm clip_grad gradient_clip clip",
    "trainer.precision": "precision dtype fp16 bf16 amp mixed_precision",
    "trainer.compile=true": "compile torch_compile",
    "trainer=cpu, trainer=gpu or trainer.devices": (
        "device devices gpus gpu cuda n_gpu num_gpus cpu"
    ),
    "trainer=ddp trainer.devices=N": "ddp distributed nproc_per_node nproc strategy",
    "trainer.ema_decay": "ema ema_decay",
    "init_from": (
        "init_from pretrained pretrained_model model_name_or_path from_pretrained load_from weights"
    ),
    "init_from.lora.rank": "lora lora_r lora_rank use_lora",
    "init_from.freeze": "freeze frozen",
    "callbacks=early_stopping": "early_stopping patience",
    "task.monitor": "monitor metric_for_best_model",
    "logger=wandb": "wandb use_wandb wandb_log report_to wandb_project",
    "logger=tensorboard": "tensorboard",
    "run.root": "output_dir out_dir save_dir log_dir work_dir ckpt_dir checkpoint_dir",
    "run.save_every": "save_steps save_every save_interval checkpoint_interval",
    "run.keep_last": "save_total_limit save_top_k keep_last",
    "run.tags": "tags tag",
    "run.notes": "notes note description comment",
    "run.on_existing=again": "overwrite overwrite_output_dir",
    "name": "run_name exp_name experiment_name project",
    "experiment=NAME": "exp experiments config config_name config_file cfg preset",
    "seed": "random_seed manual_seed rng_seed",
    "extensions=[MODULE]": "extension plugins",
    _CONTINUES: (
        "resume resume_from resume_from_checkpoint ckpt_path ckpt checkpoint restart continue"
    ),
}

_OURS = {name: ours for ours, names in _MEANINGS.items() for name in names.split()}
MISPLACED = {"run.name": "name"}
"""Keys that are typed below a wrong key, whose last part alone says too little."""

_VALUES = {
    "trainer.precision": {
        "16-mixed": "fp16 float16 half",
        "bf16-mixed": "bf16 bfloat16",
        "32-true": "fp32 float32 float full",
        "64-true": "fp64 float64 double",
    }
}
"""Values of other tools, by config key and Étude's value."""

_PLUGINS = {
    "hydra/launcher": {
        "submitit_slurm": "hydra-submitit-launcher",
        "submitit_local": "hydra-submitit-launcher",
        "joblib": "hydra-joblib-launcher",
        "ray": "hydra-ray-launcher",
        "ray_aws": "hydra-ray-launcher",
        "rq": "hydra-rq-launcher",
    },
    "hydra/sweeper": {"ax": "hydra-ax-sweeper", "nevergrad": "hydra-nevergrad-sweeper"},
}


def equivalent_of(key: str, value: object = "") -> str | None:
    """Returns a hint that names Étude's key if the user typed the option of another tool.

    Only the last part of the key path is compared with the options of other tools. Returns None if
    it is none of them.

    Args:
        key: a key path such as `trainer.batch_size`, or an option such as `--lr=1e-3`.
        value: the value that the user set; in hints such as `schedule=NAME`, it replaces NAME.
    """
    path = key.lstrip("-+~").partition("=")[0].replace("-", "_").lower()
    ours = MISPLACED.get(path, _OURS.get(path.rpartition(".")[2]))
    if ours is None or ours == key:
        return None
    if ours == _CONTINUES:
        return ours
    name = str(value)
    return f"use {ours.replace('NAME', name) if name.isidentifier() else ours}"


def hint_to_continue(command: str) -> str | None:
    """Returns a hint if the user typed a command of another tool that continues a run, such as
    `resume`.
    """
    return _CONTINUES if _OURS.get(command) == _CONTINUES else None


def own_file_hint(file: str) -> str | None:
    """Returns a hint that shows how to use a config file of the user's own; None if `file` is not
    the path of one.
    """
    path = PurePath(file)
    if path.suffix not in (".yaml", ".yml"):
        return None
    name = path.stem
    return f"save it as DIR/experiment/{name}.yaml and use experiment={name} --config-dir DIR"


def equivalent_value(key: str, value: object) -> str | None:
    """Returns a hint that names Étude's value if the user typed a value of another tool.

    Returns None for other values.
    """
    for ours, theirs in _VALUES.get(key, {}).items():
        if str(value).lower() in theirs.split():
            return f"use {ours}"
    return None


def suggest_sweep(key: str, value: object) -> str | None:
    """Returns a hint that shows how to sweep a key over the items of a list or a range.

    The key accepts only one value. Returns None if `value` is neither a list of several values, nor
    the text of one, such as `[0,1]`, nor a range of integers such as `0-3`.
    """
    text = str(value)
    if (ends := re.fullmatch(r"(\d+)(?:-|\.\.)(\d+)", text)) is not None:
        return f"to sweep over a range, use '{key}=range({ends[1]},{int(ends[2]) + 1})' -m"
    if isinstance(value, list):
        items = [_in_override(item) for item in value]
    else:
        text = text.strip()
        is_list = text.startswith("[") and text.endswith("]")
        items = [item.strip() for item in text[1:-1].split(",")] if is_list else []
    if len(items) < 2 or not all(re.fullmatch(r"[\w.+/-]+", item) for item in items):
        return None
    return f"to sweep over several values, use {key}={','.join(items)} -m"


def _in_override(value: object) -> str:
    """Returns a value as an override writes it: `true`, `null`."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def plugin_of(group: str, name: str) -> str | None:
    """Returns a hint that shows how to get a launcher or sweeper of Hydra that is not installed.

    Returns None if its package is unknown. `group` is the config group, such as `hydra/launcher`,
    and `name` is the chosen file.
    """
    if group == "hydra/sweeper" and name == "optuna":
        return "to search with Optuna, use sweep=optuna"
    package = _PLUGINS.get(group, {}).get(name)
    return f"to install it, run: pip install {package}" if package else None
