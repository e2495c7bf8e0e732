"""The models as timm's own: built by its factory, described, traced, trained by its conventions, uploaded."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import timm.optim
import torch
from timm.models import (
    FeatureInfo,
    create_feature_extractor,
    get_graph_node_names,
    load_checkpoint,
    push_to_hf_hub,
    save_for_hf,
)  # fmt: skip

import cpvt
from cpvt.encodings import TABLE
from cpvt.models import describe_models, registry
from cpvt.models.linear import plain_linear

ENCODINGS = [*TABLE, "learned+peg", "relative+rope", "sincos+peg(at=(0, 3), kernel_size=5)"]
SMALL = [name for name in describe_models() if "micro" in name]


def loud(model):
    """The model with positions and head large enough to matter."""
    torch.manual_seed(1)
    for parameter in (*model.encoding.parameters(), *model.head.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_timm_lists_our_models_and_keeps_its_own():
    ours = set(describe_models())
    assert ours <= set(timm.list_models())
    for name in ours:
        assert timm.models.model_entrypoint(name).__module__ == "cpvt.models.registry"
        assert timm.models.get_pretrained_cfg(name).architecture == name
    assert timm.models.model_entrypoint("deit_tiny_patch16_224").__module__ == "timm.models.deit"


def test_a_name_that_timm_has_already_is_left_to_it(monkeypatch):
    monkeypatch.setattr(registry, "MODELS", {"resnet18": registry.MODELS["cpvt_micro"]})
    registry.register()
    assert timm.models.model_entrypoint("resnet18").__module__ == "timm.models.resnet"


def test_both_factories_build_the_same_and_refuse_the_same():
    options = dict(num_classes=7, in_chans=1, encoding="learned+peg", drop_path_rate=0.1, img_size=(24, 40), depth=3)
    built = []
    for create in (timm.create_model, cpvt.create_model):
        torch.manual_seed(0)
        built.append(create("cpvt_micro", **options))
    assert built[0].config == built[1].config
    for name, tensor in built[0].state_dict().items():
        assert torch.equal(tensor, built[1].state_dict()[name])
    assert built[0].pretrained_cfg == built[1].pretrained_cfg
    for create in (timm.create_model, cpvt.create_model):
        with pytest.raises(ValueError, match="does not take 'droppath'; known options: .*drop_path_rate"):
            create("cpvt_micro", droppath=0.1)


def test_pretrained_is_refused_where_there_are_no_weights():
    with pytest.raises(RuntimeError, match="No pretrained weights exist for cpvt_micro"):
        timm.create_model("cpvt_micro", pretrained=True)


@pytest.mark.parametrize("name", SMALL)
def test_a_model_is_what_its_entry_says(name):
    model = timm.create_model(name).eval()
    known, state = model.default_cfg, model.state_dict()
    assert not known["fixed_input_size"]
    assert f"{known['classifier']}.weight" in state
    assert f"{known['first_conv']}.weight" in state
    images = torch.randn(2, *known["input_size"])
    features = model.forward_features(images)
    read = model.forward_head(features, pre_logits=True)
    assert features.shape[-1] == model.num_features == model.embed_dim
    assert read.shape == (2, model.head_hidden_size)
    assert model(images).shape == (2, known["num_classes"]) == (2, model.num_classes)
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), read)
    assert timm.create_model(name, num_classes=0)(images).shape == (2, model.num_features)
    unpooled = timm.create_model(name, num_classes=0, global_pool="")(images)
    assert unpooled.shape == (2, 64, model.num_features)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name):
    model = timm.create_model(name, num_classes=42).train()
    model(torch.randn(2, 3, 40, 28)).mean().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_feature_info_is_right_at_sizes_that_the_patch_does_not_divide():
    model = timm.create_model("cpvt_micro_peg5").eval()
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    _, maps = model.forward_intermediates(torch.randn(1, 3, 30, 41))
    for found, channels, stride in zip(maps, info.channels(), info.reduction(), strict=True):
        assert found.shape == (1, channels, math.ceil(30 / stride), math.ceil(41 / stride))


def test_data_settings_follow_the_training_size():
    model = timm.create_model("cpvt_micro", img_size=(24, 40), in_chans=1)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (1, 24, 40)
    model.set_input_size(48)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (1, 48, 48)
    assert timm.data.resolve_model_data_config(timm.create_model("cpvt_micro"))["input_size"] == (3, 32, 32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_models_are_built_in_the_dtype_asked_for(encoding, dtype):
    torch.manual_seed(0)
    model = timm.create_model("cpvt_micro", encoding=encoding, dtype=dtype).eval()
    torch.manual_seed(0)
    expected = timm.create_model("cpvt_micro", encoding=encoding).to(dtype).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert model(torch.randn(1, 3, 21, 33, dtype=dtype)).dtype == dtype
    empty = timm.create_model("cpvt_micro", encoding=encoding, device="meta")
    assert {tensor.device.type for tensor in empty.state_dict().values()} == {"meta"}


def trace(model):
    """The model as a graph, in training and out of it."""
    train_nodes, eval_nodes = get_graph_node_names(model)
    return train_nodes[-1:], eval_nodes[-1:], create_feature_extractor(model, eval_nodes[-1:])


@pytest.mark.filterwarnings("ignore:The nodes obtained by tracing the model in train mode")  # jitter of rope_dino
@pytest.mark.parametrize("pool", ["token", "avg", ""])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_traced_model_answers_alike_at_every_size(encoding, pool):
    model = loud(timm.create_model("cpvt_micro", encoding=encoding, global_pool=pool, depth=3, num_classes=5))
    train_nodes, eval_nodes, traced = trace(model)
    assert train_nodes == eval_nodes
    with torch.inference_mode():
        for shape in ((1, 3, 32, 32), (2, 3, 21, 45), (3, 3, 50, 4)):
            images = torch.randn(shape)
            (answers,) = traced(images).values()
            with plain_linear():  # a graph holds the linear layers themselves
                torch.testing.assert_close(answers, model(images), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(answers, model(images))
    traced.train()
    (answers,) = traced(torch.randn(2, 3, 24, 40)).values()
    answers.mean().backward()
    gradients = [parameter.grad is not None for parameter in traced.parameters()]
    assert all(gradients)
    assert len(gradients) == len(list(model.parameters()))


@pytest.mark.parametrize("encoding", ["learned+peg(at=(1, 3))", "peg(at=(1, 3))+relative"])
@pytest.mark.parametrize("form", ["fx", "hook", "getter"])
def test_every_form_of_features_holds_the_peg(form, encoding):
    options = dict(encoding=encoding, num_classes=0)
    torch.manual_seed(0)
    whole = timm.create_model("cpvt_micro", **options).eval()
    torch.manual_seed(0)
    features = timm.create_model(
        "cpvt_micro", features_only=True, feature_cls=form, out_indices=(0, 2, 3), **options
    ).eval()
    images = torch.randn(1, 3, 21, 33)
    as_maps = form == "getter"  # the others hand out tokens as they are
    expected = whole.get_intermediate_layers(images, (0, 2, 3), reshape=as_maps)
    for got, wanted in zip(features(images), expected, strict=True):
        torch.testing.assert_close(got if as_maps else got[:, 1:], wanted)


def test_what_the_training_script_passes_on_is_taken():
    model = timm.create_model(
        "cpvt_micro", pretrained=False, in_chans=3, num_classes=3, drop_rate=0.0, drop_path_rate=None,
        drop_block_rate=None, global_pool=None, bn_momentum=None, bn_eps=None, scriptable=False, checkpoint_path="",
        cache_dir=None, img_size=None,
    )  # fmt: skip
    assert (model.config.num_classes, model.config.global_pool, model.config.img_size) == (3, "token", 32)
    model = model.to(memory_format=torch.channels_last)
    model.set_grad_checkpointing(enable=True)
    average = timm.utils.ModelEmaV3(model, decay=0.5)
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.05, layer_decay=0.75)
    images, labels = torch.randn(6, 3, 24, 40).to(memory_format=torch.channels_last), torch.arange(6) % 3
    losses = []
    for _ in range(8):
        losses.append(torch.nn.functional.cross_entropy(model(images), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
        average.update(model)
    assert losses[-1] < losses[0]
    assert not torch.equal(average.module(images), model(images))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_weights_of_a_file_fit_other_classes_channels_and_sizes(encoding, tmp_path):
    source = loud(timm.create_model("cpvt_micro", encoding=encoding, num_classes=5))
    file = str(tmp_path / "model.pth")
    torch.save(source.state_dict(), file)
    again = timm.create_model("cpvt_micro", encoding=encoding, num_classes=5, checkpoint_path=file).eval()
    images = torch.randn(2, 3, 21, 33)
    assert torch.equal(again(images), source(images))
    load_checkpoint(again, file)
    overlay = {"file": file, "num_classes": -1}  # as the training script's --pretrained-path
    tuned = timm.create_model(
        "cpvt_micro",
        True,
        pretrained_cfg_overlay=overlay,
        encoding=encoding,
        num_classes=3,
        img_size=(21, 33),
        global_pool="avg",
    ).eval()
    torch.testing.assert_close(tuned.forward_features(images), source.forward_features(images))
    assert tuned(images).shape == (2, 3)
    assert tuned.config.img_size == (21, 33)
    grey = timm.create_model(
        "cpvt_micro", True, pretrained_cfg_overlay=overlay, encoding=encoding, num_classes=3, in_chans=1
    )
    weight = source.patch_embed.proj.weight
    torch.testing.assert_close(grey.patch_embed.proj.weight, weight.sum(dim=1, keepdim=True))


def test_weights_of_another_model_or_kind_of_image(tmp_path):
    source = loud(timm.create_model("cpvt_micro_gap", num_classes=5, in_chans=1))
    file = str(tmp_path / "model.pth")
    torch.save(source.state_dict(), file)
    overlay = {"file": file, "num_classes": -1, "input_size": (1, 32, 32)}
    with pytest.raises(ValueError, match=r"missing \['cls_token'\], not expected nothing"):
        timm.create_model("cpvt_micro", True, pretrained_cfg_overlay=overlay)
    with pytest.raises(ValueError, match=r"missing nothing, not expected \['encoding.peg.1.bias'"):
        timm.create_model("cpvt_micro_gap", True, pretrained_cfg_overlay=overlay, encoding="none")
    tuned = timm.create_model("cpvt_micro_gap", True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=3).eval()
    grey = torch.randn(2, 1, 21, 33)
    torch.testing.assert_close(tuned.forward_features(grey.expand(-1, 3, -1, -1)), source.forward_features(grey))


def test_a_table_comes_from_the_size_that_its_file_names(tmp_path):
    source = loud(timm.create_model("cpvt_micro", encoding="learned", img_size=(48, 24)))
    torch.save(source.state_dict(), tmp_path / "model.pth")
    overlay = {"file": str(tmp_path / "model.pth"), "num_classes": -1, "input_size": (3, 48, 24)}
    for options in ({"img_size": 40}, {}):
        tuned = timm.create_model(
            "cpvt_micro", True, pretrained_cfg_overlay=overlay, encoding="learned", **options
        ).eval()
        side = tuned.config.img_size
        assert side == options.get("img_size", 32)
        images = torch.randn(2, 3, side, side)
        torch.testing.assert_close(tuned.forward_features(images), source.forward_features(images))


class Hub:
    """A folder that stands for the hub; uploads and downloads are copies."""

    def __init__(self, root):
        self.root = root

    def create_repo(self, repo_id, **options):
        return SimpleNamespace(repo_id=repo_id)

    def file_exists(self, repo_id, filename, **options):
        return (self.root / repo_id / filename).exists()

    def upload_folder(self, repo_id, folder_path, **options):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def download(self, repo_id, filename, **options):
        path = self.root / repo_id / filename
        if not path.exists():
            raise huggingface_hub.errors.EntryNotFoundError(filename)
        return str(path)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_uploaded_models_come_back_whatever_became_of_them(encoding, tmp_path, monkeypatch):
    hub = Hub(tmp_path)
    monkeypatch.setattr(timm.models._hub, "HfApi", lambda **options: hub)
    monkeypatch.setattr(timm.models._hub, "hf_hub_download", hub.download)
    model = loud(timm.create_model("cpvt_micro", encoding=encoding, img_size=(24, 40), num_classes=5, depth=3))
    model.set_input_size((48, 32))
    model.reset_classifier(3, "avg")
    push_to_hf_hub(model, "someone/cpvt", safe_serialization=True)
    images = torch.randn(2, 3, 21, 33)
    for source in ("hf-hub:someone/cpvt", f"local-dir:{tmp_path / 'someone' / 'cpvt'}"):
        back = timm.create_model(source, pretrained=True).eval()
        assert back.config == model.config
        assert torch.equal(back(images), model(images))
    larger = timm.create_model(source, pretrained=True, img_size=(21, 33), num_classes=0).eval()
    torch.testing.assert_close(larger(images), model.forward_head(model.forward_features(images), pre_logits=True))
    assert timm.data.resolve_model_data_config(back)["input_size"] == (3, 48, 32)


def test_a_trained_run_goes_to_the_hub_too(tiny_run, tmp_path):
    run = cpvt.load(tiny_run)
    folder = tmp_path / "uploaded"
    save_for_hf(run.model, folder, safe_serialization=True, data_config={"mean": run.transform.mean})
    back = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert back.config == run.model.config
    assert back.pretrained_cfg["architecture"] == "cpvt_micro"
    assert timm.data.resolve_model_data_config(back)["mean"] == list(run.transform.mean)
    images = torch.randn(2, 3, 9, 14)
    assert torch.equal(back(images), run.model(images))
    by_name = timm.create_model(
        "cpvt_micro", checkpoint_path=Path(tiny_run) / "model.safetensors", img_size=8, num_classes=2
    )
    assert torch.equal(by_name.eval()(images), run.model(images))
