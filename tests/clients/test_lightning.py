"""Lightning: mixed precision as a CPU allows, clipping, accumulation, a scheduler; checkpoints cross both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training import batches, check_both_ways, loss_of, network, optimizer

# In mixed precision Lightning clips no optimizer that unscales by itself, as torch's fused ones and ours do.
CASES = [
    ("SGD", "32-true", 0.1),
    ("AdamW", "32-true", 0.1),
    ("SGD", "bf16-mixed", 0.1),
    ("AdamW", "bf16-mixed", None),
    ("SGD", "16-mixed", 0.1),
    ("AdamW", "16-mixed", None),
]


@pytest.mark.parametrize(("name", "precision", "clip"), CASES)
def test_mixed_precision_and_clipping(client: Any, tmp_path: Path, name: str, precision: str, clip: Any) -> None:
    clipping = "clipping, " if clip else ""
    client("lightning", f"Trainer, precision {precision}, {clipping}accumulation 2, StepLR, ModelCheckpoint", name)
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.plugins import MixedPrecision

    class Module(lightning.LightningModule):
        def __init__(self, whose: str) -> None:
            super().__init__()
            self.whose, self.net = whose, network()

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return loss_of(self.net, batch)

        def configure_optimizers(self) -> Any:
            made = optimizer(self.whose, name, self.net.parameters())
            schedule = torch.optim.lr_scheduler.StepLR(made, 2, 0.5)
            return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def run(whose: str, first: int, last: int) -> list[torch.Tensor]:
        # Lightning trains in bfloat16 when a CPU is asked for 16-mixed; torch's CPU autocast knows float16 too.
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=3)
        half = precision == "16-mixed"
        plugins = [MixedPrecision(precision, "cpu", scaler)] if half else None
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=last,
            gradient_clip_val=clip,
            accumulate_grad_batches=2,
            logger=False,
            callbacks=[ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, enable_version_counter=False)],
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            plugins=plugins,
            precision=None if half else precision,
        )
        module = Module(whose)
        data = torch.utils.data.DataLoader(batches(4), batch_size=None)
        trainer.fit(module, data, ckpt_path=str(tmp_path / f"epoch={first - 1}.ckpt") if first else None)
        assert trainer.global_step == 2 * last
        return list(module.net.parameters())

    check_both_ways(run, 2, 4)
