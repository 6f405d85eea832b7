"""The torch-free tokenizer against open_clip's, token for token."""

from __future__ import annotations

import json
import random
import string
import subprocess
import sys
import threading
from pathlib import Path

import ftfy
import numpy as np
import pytest

from clipperf.errors import ArtifactError, ExportError, MissingDependencyError, UsageError
from clipperf.inputs import clean as cleaning
from clipperf.inputs import tokenize
from clipperf.inputs.clean import CLEANERS
from clipperf.inputs.tokenize import Tokenizer, TokenizerSpec, eot_lengths
from clipperf.models import tokenizer_files
from clipperf.models.tokenizer_files import (
    write_clip_tokenizer,
    write_hf_tokenizer,
    write_tokenizer,
)

open_clip = pytest.importorskip("open_clip")

PIECES = {
    "entities": "&amp; &lt; &gt; &eacute; &amp;amp;lt; &#233; &#x1F600; &#xD800; &nbsp; &notit; "
    "& &#0; &quot; &amp;#39;s &#127; &#8217;s",
    "mojibake": "schÃ¶n â€™s Ã©tÃ© â€œquoteâ€\x9d ÐŸÑ€Ð¸Ð²ÐµÑ‚ ðŸ˜€ Â£5 ï»¿ "
    "l’avion ﬁﬂ ＡＢＣ \x92s \x1b[31mred\x1b[0m",
    "specials": "<start_of_text> <end_of_text> <START_OF_TEXT> <End_Of_Text> <ſtart_of_text> "
    "<<start_of_text> <start_of_text>> <|startoftext|> <start_of_text start_of_text>",
    "contractions": "it's I'm you're we've they'll he'd can't 'S 'ſ ''s 'RE 'lL d'D D' ’s 'vex",
    "emoji": "😀 👍🏽 👩‍👩‍👧 🇫🇷 ☺️ ❤ 🗼",
    "words": "a photo of the dog 3d render DSLR running café naïve straße İstanbul ΣΑΣ ΟΔΟΣ ǅ ŉ ﬆ "
    "東京 Привет مرحبا हिन्दी ไทย 한국어",
    # Combining marks, surrogates, digits of other scripts, private use, controls, and letters
    # that only recent versions of Unicode know.
    "odd": "\u0345 α\u0345 \u0345! !\u0345a \u0301 e\u0301 \ud83d \ud83d\ude00 \udc00 Ⅳ ² ½ ٣ 〇 𝟘 "
    "\U0001d400 \U00013000 \U0010ffff \ue000 \U000e0001 \x00 \x7f \x80 \x1a \ufffd \U0001e900 "
    "\U00010d50 \U00016d40 \u1c89",
}
SPACES = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\u200b\ufeff"

CLEANINGS = [name for name in CLEANERS if name not in ("none", "siglip")]
"""Those that open_clip's own tokenizer has."""


def generated(n: int, seed: int) -> list[str]:
    """Seeded texts that mix everything a tokenizer can trip over."""
    rng = random.Random(seed)
    pools = [text.split(" ") for text in PIECES.values()]

    def character() -> str:
        low, high = rng.choice(
            [(0x20, 0x7F), (0x80, 0x800), (0x800, 0x10000), (0x10000, 0x20000), (0x20000, 0x110000)]
        )
        return chr(rng.randrange(low, high))

    def piece() -> str:
        kind = rng.randrange(len(pools) + 4)
        if kind < len(pools):
            return rng.choice(pools[kind])
        if kind == len(pools):
            return rng.choice(SPACES)
        if kind == len(pools) + 1:
            return str(rng.randrange(10**6))
        if kind == len(pools) + 2:
            return "".join(rng.choices(string.printable, k=rng.randrange(1, 12)))
        return "".join(character() for _ in range(rng.randrange(1, 8)))

    def text() -> str:
        if (odds := rng.random()) < 0.01:
            return rng.choice(["", " ", "\n\t"])
        if odds < 0.02:
            return rng.choice(["x", "word ", "é", "漢", "9", "!?", "Aa1"]) * rng.randrange(50, 500)
        return "".join(piece() + " " * rng.randrange(2) for _ in range(rng.randrange(1, 12)))

    return [text() for _ in range(n)]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return generated(10_000, seed=20240607)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One exported CLIP tokenizer for each cleaning."""
    written = {}
    for clean in CLEANINGS:
        written[clean] = tmp_path_factory.mktemp(clean)
        write_clip_tokenizer(written[clean], 77, clean)
    return written


@pytest.fixture(scope="module", autouse=True)
def shared_ftfy():
    """Both sides call ftfy for the same texts; remembering its answers halves the time."""
    real, known = ftfy.fix_text, {}

    def fix_text(text: str) -> str:
        if text not in known:
            known[text] = real(text)
        return known[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ftfy, "fix_text", fix_text)
        yield


def assert_same(ours: np.ndarray, reference, texts) -> None:
    expected = reference.numpy()
    assert ours.dtype == np.int64
    assert ours.shape == expected.shape
    bad = [text for text, a, b in zip(texts, ours, expected, strict=True) if (a != b).any()]
    assert not bad, f"{len(bad)} texts differ, first {bad[0]!r}"


@pytest.mark.parametrize("clean", CLEANINGS)
def test_ten_thousand_texts_are_tokenized_as_open_clip_does(clean, folders, texts):
    tokenizer = Tokenizer.from_folder(folders[clean])
    reference = open_clip.SimpleTokenizer(clean=clean)
    assert_same(tokenizer(texts), reference(texts), texts)
    for context in (1, 2, 3, 16, 32, 64, 72, 76, 256):
        some = texts[context * 17 :][:300]
        assert_same(tokenizer(some, context), reference(some, context_length=context), some)


def test_every_character_falls_in_the_word_class_of_the_reference(folders):
    reference = open_clip.SimpleTokenizer()
    split = Tokenizer.from_folder(folders["lower"])._plain.pre_tokenizer.pre_tokenize_str
    # Beyond these blocks Unicode has assigned nothing but private use.
    codes = [*range(0xD800), *range(0xE000, 0x33600), *range(0xE0000, 0xE0200), 0xF0000, 0x10FFFF]
    for start in range(0, len(codes), 8192):
        text = "".join(f"{chr(c)}a" for c in codes[start : start + 8192])
        words = [text[a:b] for _, (a, b) in split(text)]
        assert words == reference.pat.findall(text), f"U+{codes[start]:04X} and the next 8192"


def test_merges_need_no_order_among_equals(folders):
    # The library merges one pair at a time, the reference all equal pairs at once. Both give the
    # same tokens where every merged token is made in one way, after its parts.
    merges = tokenizer_files._read_merges()
    made: dict[str, int] = {}
    for first, second in merges:
        for part in (first, second):
            assert len(part.removesuffix("</w>")) == 1 or part in made
        assert first + second not in made
        made[first + second] = len(made)


def test_ascii_without_ampersand_needs_no_ftfy():
    plain = [c for c in map(chr, range(0x110000)) if not cleaning._MAY_NEED_FIXING.search(c)]
    assert set(plain) == set("\t\n" + string.printable[:95]) - {"&"}
    rng = random.Random(7)
    candidates = [a + b for a in plain for b in plain]
    candidates += ["".join(rng.choices(plain, k=rng.randrange(60))) for _ in range(3000)]
    for text in candidates:
        assert ftfy.fix_text(text) == text


def test_typed_special_tokens_follow_the_word_pattern(folders):
    for clean in CLEANINGS:
        tokenizer = Tokenizer.from_folder(folders[clean])
        reference = open_clip.SimpleTokenizer(clean=clean)
        typed = [
            f"{before}{special}{after}"
            for special in (
                "<start_of_text>",
                "<end_of_text>",
                "<START_of_text>",
                "<ſtart_of_text>",
            )
            for before in ("", "a", "<", " é", "!! ")
            for after in ("", "b", ">", "é", "<end_of_text>")
        ]
        assert_same(tokenizer(typed), reference(typed), typed)


def test_word_cache_is_bounded_and_changes_nothing(folders, texts, monkeypatch):
    expected = Tokenizer.from_folder(folders["lower"])(texts[:2000])
    monkeypatch.setattr(tokenize, "_CACHED_WORDS", 5)
    tokenizer = Tokenizer.from_folder(folders["lower"])
    assert np.array_equal(tokenizer(texts[:2000]), expected)
    assert np.array_equal(tokenizer(texts[:2000]), expected)
    assert len(tokenizer._word_ids) <= 5
    tokenizer("x" * 500)
    assert "x" * 500 not in tokenizer._word_ids


def test_eot_lengths_point_behind_the_token_that_is_pooled(folders, texts):
    tokenizer = Tokenizer.from_folder(folders["lower"])
    tokens = tokenizer([*texts[:500], "typed <end_of_text> twice"])
    # open_clip pools at text.argmax(dim=-1): the first highest id.
    assert np.array_equal(eot_lengths(tokens, tokenizer.eot_id), tokens.argmax(axis=1) + 1)
    assert eot_lengths(np.array([[1, 2, 3], [9, 9, 0]]), 9).tolist() == [3, 1]


def test_shapes_of_small_inputs(folders):
    tokenizer = Tokenizer.from_folder(folders["lower"])
    assert tokenizer([]).shape == (0, 77)
    assert np.array_equal(tokenizer("a dog"), tokenizer(["a dog"]))
    assert tokenizer.context_tokens == 77


def test_written_files_are_the_same_every_time(folders, tmp_path):
    write_clip_tokenizer(tmp_path, 77, "lower")
    for name in ("tokenizer.json", "clipperf_tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (folders["lower"] / name).read_bytes()


def test_write_tokenizer_takes_what_open_clip_returns(tmp_path):
    assert write_tokenizer(tmp_path, open_clip.get_tokenizer("coca_ViT-B-32")).context_tokens == 76
    shortening = open_clip.SimpleTokenizer(reduction_mask="random")
    with pytest.raises(ExportError, match="reduction_mask=''"):
        write_tokenizer(tmp_path, shortening)
    extended = open_clip.SimpleTokenizer(additional_special_tokens=["<extra>"])
    with pytest.raises(ExportError, match="additional special tokens"):
        write_tokenizer(tmp_path, extended)
    extended.clean_fn = str.upper
    with pytest.raises(ExportError, match="unknown text cleaning 'upper'"):
        write_tokenizer(tmp_path, extended)


def test_an_unequal_copy_is_refused(tmp_path):
    different = open_clip.SimpleTokenizer()
    different.eot_token_id = 5
    with pytest.raises(ExportError, match="differs from the original"):
        write_tokenizer(tmp_path, different)


def test_bad_input_is_refused(folders, tmp_path):
    tokenizer = Tokenizer.from_folder(folders["lower"])
    with pytest.raises(UsageError, match="text 1 is int"):
        tokenizer(["a", 3])
    with pytest.raises(UsageError, match="context_tokens is 0"):
        tokenizer(["a"], 0)
    with pytest.raises(UsageError, match="unknown cleaning 'upper'"):
        write_clip_tokenizer(tmp_path, 77, "upper")
    with pytest.raises(UsageError, match="context_tokens"):
        write_clip_tokenizer(tmp_path, 0)


def test_damaged_folders_are_refused(folders, tmp_path):
    with pytest.raises(ArtifactError, match="clipperf_tokenizer"):
        Tokenizer.from_folder(tmp_path)
    good = json.loads((folders["lower"] / "clipperf_tokenizer.json").read_text())
    config = tmp_path / "clipperf_tokenizer.json"
    config.write_text(json.dumps(good))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    whole = (folders["lower"] / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    for name, value in {
        "kind": "bpe",
        "clean": "upper",
        "context_tokens": 0,
        "pad_id": None,
        "eot_id": None,
        "sot_id": "49406",
        "padding_side": "top",
        "plain_specials": 1,
        "origin": 3,
    }.items():
        with pytest.raises(ArtifactError, match=name):
            TokenizerSpec.from_json({**good, name: value})
    with pytest.raises(ArtifactError, match="kind"):
        TokenizerSpec.from_json({})
    with pytest.raises(ArtifactError, match="expected an object"):
        TokenizerSpec.from_json([])
    assert TokenizerSpec.from_json({**good, "newer": 1}).to_json() == good


def test_missing_packages_are_named(folders, tmp_path, monkeypatch):
    tokenizer = Tokenizer.from_folder(folders["lower"])
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert tokenizer(["plain text"]).shape == (1, 77)
    with pytest.raises(MissingDependencyError, match="pip install ftfy"):
        tokenizer(["café"])
    monkeypatch.setitem(sys.modules, "regex", None)
    with pytest.raises(MissingDependencyError, match="pip install regex"):
        write_clip_tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match="pip install tokenizers"):
        Tokenizer.from_folder(folders["lower"])


def test_reading_imports_neither_torch_nor_open_clip(folders, tmp_path):
    code = """
import sys
import numpy as np
from PIL import Image
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models.tokenizer_files import write_clip_tokenizer
from clipperf.inputs.tokenize import Tokenizer, eot_lengths
tokenizer = Tokenizer.from_folder(sys.argv[1])
assert eot_lengths(tokenizer(["a dog", "un café"]), tokenizer.eot_id).tolist() == [4, 4]
assert preprocess([Image.new("RGB", (9, 7))], PreprocessSpec()).shape == (1, 3, 224, 224)
heavy = {"torch", "torchvision", "open_clip", "transformers", "onnxruntime", "regex"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
write_clip_tokenizer(sys.argv[2])
assert not {"torch", "open_clip", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, folders["lower"], tmp_path], check=True)


# Hugging Face tokenizers, trained here on a few sentences and read by open_clip's own wrappers.

CORPUS = [
    *tokenizer_files._PROBES,
    *("a photo of a dog", "une photo de chat", "ein Foto vom Hund") * 20,
]


@pytest.fixture(scope="module")
def transformers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bert(transformers, tmp_path_factory) -> Path:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]"]
    backend.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials)
    )
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertTokenizerFast(
        vocab=backend.get_vocab(), bos_token="[BOS]", eos_token="[EOS]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def nllb(transformers, tmp_path_factory) -> Path:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=specials)
    )
    model = json.loads(backend.to_str())["model"]
    folder = tmp_path_factory.mktemp("nllb")
    transformers.NllbTokenizerFast(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]]
    ).save_pretrained(folder)
    return folder


def check_copy(folder: Path, reference, texts: list[str], contexts=(9, 16, 77)) -> TokenizerSpec:
    spec = write_tokenizer(folder, reference)
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.spec == spec
    texts = [*texts[:400], "[SEP] typed [CLS]", "<pad> </s> typed", "eng_Latn"]
    assert_same(tokenizer(texts), reference(texts), texts)
    for context in contexts:
        assert_same(tokenizer(texts, context), reference(texts, context_length=context), texts)
    return spec


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strip_sep_token": True, "context_length": 32},
        {"tokenizer_mode": "clips"},
        {"clean": "canonicalize", "context_length": 16},
        {"clean": "lower", "padding_side": "left", "truncation_side": "left"},
        {"split_special_tokens": True},
    ],
    ids=str,
)
def test_hugging_face_tokenizers_are_copied_exactly(bert, options, tmp_path, texts):
    reference = open_clip.tokenizer.HFTokenizer(str(bert), **options)
    spec = check_copy(tmp_path, reference, texts)
    assert spec.kind == options.get("tokenizer_mode", "hf")
    assert (spec.zeroed_id is not None) == ("strip_sep_token" in options)
    assert spec.plain_specials == ("split_special_tokens" in options)


@pytest.mark.parametrize("language", [None, "fra_Latn"])
def test_multilingual_tokenizers_keep_their_language(nllb, language, tmp_path, texts):
    reference = open_clip.tokenizer.HFTokenizer(str(nllb), language=language)
    spec = check_copy(tmp_path, reference, texts)
    assert spec.origin.startswith("language ")


def test_siglip_tokenizers_are_copied_exactly(transformers, tmp_path, texts):
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
    )
    backend.train_from_iterator(CORPUS, trainer)
    vocabulary = [tuple(entry) for entry in json.loads(backend.to_str())["model"]["vocab"]]
    # The constructor takes a sentencepiece file only; what it sets afterwards is repeated here.
    reference = object.__new__(open_clip.tokenizer.SigLipTokenizer)
    reference.tokenizer = transformers.T5TokenizerFast(vocab=vocabulary, extra_ids=0)
    reference.tokenizer.pad_token_id = 1
    reference.tokenizer.eos_token_id = 1
    reference.context_length = 64
    spec = check_copy(tmp_path, reference, texts)
    assert (spec.clean, spec.pad_id, spec.eot_id) == ("canonicalize", 1, 1)


def test_hugging_face_calls_with_other_lengths_do_not_disturb_each_other(bert, tmp_path):
    reference = open_clip.tokenizer.HFTokenizer(str(bert))
    write_hf_tokenizer(tmp_path, reference)
    tokenizer = Tokenizer.from_folder(tmp_path)
    lines = ["a photo of a dog " * n for n in range(1, 12)]
    expected = {context: tokenizer(lines, context) for context in range(5, 25)}
    failures = []

    def call(context: int) -> None:
        for _ in range(20):
            if not np.array_equal(tokenizer(lines, context), expected[context]):
                failures.append(context)

    threads = [threading.Thread(target=call, args=(context,)) for context in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with pytest.raises(UsageError, match="must be 3 or more"):
        tokenizer(lines, 2)


def test_tokenizers_that_cannot_be_copied_are_refused(bert, transformers, tmp_path):
    reference = open_clip.tokenizer.HFTokenizer(str(bert))
    reference.tokenizer_mode = "other"
    with pytest.raises(ExportError, match="unknown tokenizer mode 'other'"):
        write_hf_tokenizer(tmp_path, reference)
    reference = open_clip.tokenizer.HFTokenizer(str(bert), tokenizer_mode="clips")
    reference.tokenizer.bos_token = None
    with pytest.raises(ExportError, match="cannot tokenize a single letter"):
        write_hf_tokenizer(tmp_path, reference)
    reference.tokenizer = object()
    with pytest.raises(ExportError, match="no fast tokenizer"):
        write_hf_tokenizer(tmp_path, reference)
