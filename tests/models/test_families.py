"""Model families: which models are theirs, what the chat form is, and that other models are refused by name."""

import json
from pathlib import Path

import pytest

from tests.conftest import Cli, write_project
from vlmdet_cli.errors import UsageError
from vlmdet_cli.models import dialects, registry
from vlmdet_cli.models.internvl import INTERNVL
from vlmdet_cli.models.other import OTHER
from vlmdet_cli.models.paligemma import PALIGEMMA
from vlmdet_cli.models.qwen2_vl import QWEN2_VL
from vlmdet_cli.models.qwen3_vl import QWEN3_VL

REFUSAL = "error: Not a model of a known family: {model}\n  Its model_type is {model_type}.\n"


def model_folder(folder: Path, **settings: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("name", registry.names())
def test_a_family_names_a_dialect_that_exists(name: str) -> None:
    assert registry.get(name).dialect in dialects.names()


def test_an_unknown_family_is_refused_with_the_nearest_known_name() -> None:
    with pytest.raises(UsageError, match=r"qwen2_v: did you mean qwen2_vl\?"):
        registry.get("qwen2_v")


def test_a_folders_own_settings_decide_its_family(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "Florence-2", model_type="qwen2_vl")
    assert registry.family_of(str(folder)) is QWEN2_VL
    other = model_folder(tmp_path / "Qwen2-VL-2B", model_type="florence2")
    with pytest.raises(UsageError) as caught:
        registry.family_of(str(other), "qwen2_vl")
    assert caught.value.what == f"Not a model of a known family: {other}"
    assert caught.value.why == ("Its model_type is florence2.",)
    assert caught.value.hint.startswith(
        f"Known families: {', '.join(registry.names())}. For another model that ms-swift"
    )
    assert caught.value.hint.endswith(f"in format.dialect: {', '.join(dialects.names())}.")


def test_a_model_of_another_family_is_taken_where_its_dialect_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "llava", model_type="llava")
    family = registry.family_of(str(folder), dialect="swift")
    assert (family, family.is_known) == (OTHER, False)
    assert registry.get(family.name) is OTHER
    assert OTHER.name not in registry.names()
    assert registry.family_of("Qwen/Qwen2-VL-2B-Instruct", dialect="swift") is QWEN2_VL


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl"),
        ("qwen/qwen2_vl", "qwen2_vl"),
        ("someone/Qwen2-VL-7B-Instruct-AWQ", "qwen2_vl"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl"),
        ("Qwen/Qwen2.5-VL-72B-Instruct-AWQ", "qwen2_5_vl"),
        ("unsloth/Qwen2.5-VL-7B-Instruct-unsloth-bnb-4bit", "qwen2_5_vl"),
        ("mlx-community/qwen2_5_vl_3b", "qwen2_5_vl"),
        ("Qwen3-VL-8B-Instruct", "qwen3_vl"),
        ("unsloth/Qwen3-VL-8B-Instruct-GGUF", "qwen3_vl"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct-FP8", "qwen3_vl"),
        ("OpenGVLab/InternVL3-1B-hf", "internvl"),
        ("OpenGVLab/InternVL3_5-8B-HF", "internvl"),
        ("google/paligemma2-3b-pt-448", "paligemma"),
        ("google/paligemma-3b-mix-224", "paligemma"),
    ],
)
def test_a_hubs_model_is_recognised_by_its_name(model: str, family: str) -> None:
    assert registry.family_of(model).name == family


def test_model_type_decides_where_the_name_tells_nothing(tmp_path: Path) -> None:
    assert registry.family_of("someone/my-model", "qwen2_vl") is QWEN2_VL
    bare = tmp_path / "bare"
    bare.mkdir()
    assert registry.family_of(str(bare), "qwen2_vl") is QWEN2_VL
    with pytest.raises(UsageError, match=r"Neither its name nor train\.swift\.model_type"):
        registry.family_of("someone/my-model")


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen3-8B", "llava-hf/llava-1.5-7b-hf", "OpenGVLab/InternVL3-1B"]
)
def test_a_hubs_model_of_another_family_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Not a model of a known family"):
        registry.family_of(name)


@pytest.mark.parametrize("command", ["prepare", "augment", "train"])
def test_stages_refuse_a_model_of_another_family_by_its_name(cli: Cli, command: str) -> None:
    write_project(Path(), {"a.jpg": [("cat", (1, 1, 20, 20))]})
    assert cli("prepare").exit_code == 0
    folder = model_folder(Path("llava"), model_type="llava_next").absolute()
    done = cli(command, "--set", "train.model=llava")
    assert done.exit_code == 2
    assert REFUSAL.format(model=folder, model_type="llava_next") in done.stderr


def test_infer_refuses_a_model_of_another_family_by_its_name(cli: Cli, tiny_picture: Path) -> None:
    model_folder(Path("llava"), model_type="llava_next")
    done = cli("infer", "--model", "llava", str(tiny_picture))
    assert done.exit_code == 2
    assert REFUSAL.format(model="llava", model_type="llava_next") in done.stderr


@pytest.fixture
def tiny_picture(cli: Cli) -> Path:
    del cli  # it enters the test's folder
    write_project(Path(), {"a.jpg": []})
    return Path("images/a.jpg")


def test_the_dialect_of_rows_follows_the_family_unless_it_is_named(cli: Cli) -> None:
    write_project(Path(), {"a.jpg": [("cat", (0, 0, 32, 24))]})
    answers = []
    for value in ("", "qwen2_vl", "florence2"):
        assert cli("prepare", "--set", f'format.dialect="{value}"').exit_code == 0
        row = json.loads(Path("out/data/coco_final_train.jsonl").read_text())
        answers.append(row["messages"][1]["content"])
    assert answers[0] == answers[1] == dialects.get(QWEN2_VL.dialect).write([("cat", (0, 0, 500, 500))])
    assert answers[2] == "cat<loc_0><loc_0><loc_500><loc_500>"


@pytest.mark.parametrize("name", registry.names())
def test_a_family_writes_objects_rows_in_its_own_dialect_and_in_others_that_have_the_form(name: str) -> None:
    family = registry.get(name)
    assert family.dialect in family.objects_environments or not dialects.get(family.dialect).objects_form
    assert all(dialects.get(dialect).objects_form for dialect in family.objects_environments)


def test_objects_rows_in_a_dialect_that_the_models_template_does_not_write_are_refused(cli: Cli) -> None:
    write_project(Path(), {"a.jpg": [("cat", (0, 0, 32, 24))]})
    sets = ("--set", "format.rows=objects", "--set", "format.dialect=internvl")
    done = cli("prepare", *sets)
    assert (done.exit_code, done.stderr) == (
        2,
        "error: Rows with `objects` cannot be written in the dialect internvl\n"
        "  ms-swift's template of qwen2_vl writes: qwen2_vl, qwen3_vl.\n"
        'hint: Set format.rows = "text", or another format.dialect.\n',
    )
    assert not Path("out/data").exists()


def test_the_chat_form_of_qwen2_vl() -> None:
    request = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>Cats?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert QWEN2_VL.request_text("<image>Cats?") == request
    assert QWEN2_VL.request_text("Cats?") == request
    assert QWEN2_VL.row_text("<image>Cats?", "No objects.") == f"{request}No objects.<|im_end|>\n"


def test_another_system_prompt_replaces_the_familys_and_an_empty_prompt_removes_it() -> None:
    user = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>?<|im_end|>\n<|im_start|>assistant\n"
    assert QWEN2_VL.request_text("?", "Be brief.") == f"<|im_start|>system\nBe brief.<|im_end|>\n{user}"
    assert QWEN2_VL.request_text("?", "") == user


def test_a_family_without_a_system_prompt_has_no_system_turn() -> None:
    user = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>?<|im_end|>\n<|im_start|>assistant\n"
    assert QWEN3_VL.request_text("?") == user
    assert QWEN3_VL.request_text("?", "Be brief.") == f"<|im_start|>system\nBe brief.<|im_end|>\n{user}"


def test_a_picture_of_qwen3_vl_takes_a_token_for_32_by_32_pixels() -> None:
    assert QWEN3_VL.trained_size((640, 480), None) == (640, 480)
    assert QWEN3_VL.image_tokens([(640, 480), (1, 1)], None).tolist() == [20 * 15, 4]


def test_a_picture_takes_a_token_for_28_by_28_pixels_of_its_trained_size() -> None:
    assert QWEN2_VL.image_tokens([(224, 224), (640, 480)], None).tolist() == [64, 23 * 17]
    assert QWEN2_VL.image_tokens([(640, 480)], 112 * 112).tolist() == [5 * 3]
    assert QWEN2_VL.trained_size((640, 480), None) == (644, 476)


def test_a_picture_of_internvl_takes_256_tokens_a_tile_and_the_whole_picture_follows_its_tiles() -> None:
    sizes = [(448, 448), (640, 480), (1280, 720), (3000, 100), (20, 20)]
    tiles = [1, 12 + 1, 8 + 1, 12 + 1, 1]
    assert INTERNVL.image_tokens(sizes, None).tolist() == [256 * count + 2 for count in tiles]
    assert INTERNVL.image_tokens([(2000, 2000), (64, 48)], None).tolist() == [256 * 10 + 2, 256 * 13 + 2]
    assert INTERNVL.image_tokens([(2000, 2000)], 448 * 448).tolist() == [256 + 2]


def test_a_folders_own_tiles_decide_what_a_picture_takes(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "internvl", model_type="internvl")
    assert registry.family_of(str(folder)) == INTERNVL
    (folder / "preprocessor_config.json").write_text('{"max_patches": 4, "size": {"height": 224, "width": 224}}')
    (folder / "processor_config.json").write_text('{"image_seq_length": 64}')
    family = registry.family_of(str(folder))
    assert family.image_tokens([(640, 480)], None).tolist() == [64 * 5 + 2]
    assert family.image_tokens([(800, 400)], None).tolist() == [64 * 3 + 2]
    (folder / "preprocessor_config.json").write_text('{"max_patches": "many"}')
    with pytest.raises(UsageError) as caught:
        registry.family_of(str(folder))
    assert caught.value.why == ("max_tiles: 'many'",)


def test_a_picture_of_paligemma_takes_the_tokens_that_the_models_name_or_folder_tells(tmp_path: Path) -> None:
    sizes = [(640, 480), (10, 3000)]
    tokens = {model: registry.family_of(model).image_tokens(sizes, None).tolist() for model in (
        "google/paligemma2-3b-pt-448", "google/paligemma2-10b-ft-docci-448", "google/paligemma2-28b-pt-896",
        "google/paligemma-3b-mix-224", "someone/paligemma-cats",
    )}  # fmt: skip
    assert list(tokens.values()) == [[1024] * 2, [1024] * 2, [4096] * 2, [256] * 2, [256] * 2]
    folder = model_folder(tmp_path / "paligemma2-3b-pt-448", model_type="paligemma")
    (folder / "preprocessor_config.json").write_text('{"image_seq_length": 64}')
    assert registry.family_of(str(folder)).image_tokens(sizes, None).tolist() == [64, 64]
    (folder / "preprocessor_config.json").write_text('{"image_seq_length": "64"}')
    with pytest.raises(UsageError, match="no number above 0"):
        registry.family_of(str(folder))


def test_a_row_of_paligemma_has_no_chat_and_no_system_prompt() -> None:
    assert PALIGEMMA.row_text("<image>detect cat", "<loc0001><loc0002><loc0003><loc0004> cat") == (
        "<image><bos>detect cat\n<loc0001><loc0002><loc0003><loc0004> cat<eos>"
    )
    assert PALIGEMMA.request_text("Cats?", "") == "<image><bos>Cats?\n"
    assert PALIGEMMA.max_text_tokens("<loc0001><loc0002><loc0003><loc0004> cat<eos>") == 4 + 4 + 1
    with pytest.raises(UsageError, match="takes no system prompt"):
        PALIGEMMA.request_text("Cats?", "Be brief.")


def test_the_bound_of_a_texts_tokens_counts_each_special_token_once() -> None:
    assert QWEN2_VL.max_text_tokens("<|box_start|>(1,2)") == 6
    assert QWEN2_VL.max_text_tokens("猫<|im_end|>") == 4
    tokens = QWEN2_VL.special_tokens
    assert QWEN2_VL.max_text_tokens("<".join(tokens)) == 2 * len(tokens) - 1


@pytest.mark.parametrize("name", registry.names())
def test_each_special_token_of_a_family_begins_with_the_sign_that_bounds_look_for(name: str) -> None:
    assert all(token.startswith("<") for token in registry.get(name).special_tokens)
