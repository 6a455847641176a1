from pathlib import Path

import pytest

from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.train import TokenizerSpec, train_tokenizer

TEXTS = {
    "ar": "كان الجو صحوا في ذلك الصباح، فخرج الأطفال إلى الحديقة يلعبون بالكرة.",
    "el": "Ο παππούς μου μάζευε ελιές κάθε φθινόπωρο και τραγουδούσε.",
    "en": "The lighthouse keeper wrote a letter every evening, but nobody knew to whom.",
    "hi": "बारिश के बाद आँगन में मिट्टी की ख़ुशबू फैल गई और बच्चे नाचने लगे।",
    "ja": "祖母は毎朝、庭の梅の木に水をやりながら小さな声で歌っていた。",
    "ko": "할머니는 아침마다 마당에서 고추를 말리며 옛날이야기를 들려주셨다.",
    "ru": "Старый трамвай медленно поднимался в гору, и пассажиры молчали.",
    "th": "ยายตื่นแต่เช้ามืดเพื่อไปตลาดริมน้ำทุกวันอาทิตย์",
    "zh": "外婆每天清晨都去河边洗菜，回来的路上总要和邻居聊几句。",
}
SPEC = TokenizerSpec(vocab_size=768, num_threads=1, language_slots=16)


def documents():
    """Enough repetition, with varied word order, for pieces longer than a character."""
    for language, text in TEXTS.items():
        words = text.split(" ")
        for turn in range(12):
            yield language, " ".join(words[turn % len(words) :] + words[: turn % len(words)])
        for turn, word in enumerate(words):
            yield language, " ".join(word + other for other in words[turn:])


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("tokenizers") / "small"
    train_tokenizer(documents(), SPEC, made)
    return made


@pytest.fixture(scope="session")
def tokenizer(folder) -> Tokenizer:
    return Tokenizer.load(folder)
