"""Mentions of a name: whole words in scripts that have them."""

import pytest

from editors.prompts.mentions import mentions

FOUND = [
    ("资治通鉴", "资治通鉴的编纂者是谁？"),
    ("故宫", "故宫2024"),
    ("東京", "東京は"),
    ("さくら", "さくらは"),
    ("トヨタ", "トヨタは車"),
    ("กรุงเทพ", "กรุงเทพเป็น"),
    ("राम", "राम का जन्म"),
    ("दिल्ली", "दिल्ली में"),
    ("서울", "서울은 어디"),
    ("서울", "서울에서는 무엇"),
    ("서울", "수도는 서울이다"),
    ("김치", "그것은 김치입니다."),
    ("C", "C is a language"),
    ("1984", "1984, a novel"),
    ("GTK", "GTK+ is"),
    (".NET", "the .NET runtime"),
    ("U.S", "the U.S. Senate"),
    ("Apple", "Apple은 무엇"),
    ("Python", "Python的作者"),
    ("باريس", "في باريس؟"),
    ("باريس", "وباريس"),
    ("פריז", "בפריז יש"),
    ("Ra", "Ra's mother"),
    ("St. John", "St. John\u2019s"),
    ("Ra", "half-Ra"),
    ("Yahoo!", "Yahoo! was"),
    ("C++", "C++ is"),
    ("Paris", "Paris\u202f?"),
    ("Việt", "Việt Nam"),
    ("👋", "👋 means"),
]
INSIDE = [
    ("राम", "रामायण"),
    ("दिल्", "दिल्ली"),
    ("Ra", "Ravi"),
    ("Ra", "Ra_x"),
    ("iPhone", "iPhone5"),
    ("TNF", "TNFα"),
    ("Рада", "Радар"),
    ("Cafe", "Cafe\u0301"),
    ("서울", "남서울은"),
    ("한국", "한국인은"),
    ("김", "김이나는"),
    ("لب", "كلب هو"),
    ("לב", "כלב"),
    ("C", "C++ and C#"),
    (".NET", "ASP.NET"),
    ("Windows 3", "Windows 3.1"),
    ("10", "10,000 and 3.10"),
    ("U.S", "U.S.A"),
    ("서울", "서울대학교는"),
    ("トヨタ", "トヨタマは"),
    ("رام", "مرام"),
    ("ก", "กำ"),
    ("รา", "เรา"),
    ("👋", "👋🏽"),
    ("👩", "👩\u200d👧"),
]


@pytest.mark.parametrize(("name", "text"), FOUND)
def test_a_name_is_found_where_a_word_ends_or_the_script_has_no_words(name: str, text: str):
    ((start, end),) = mentions(name, text)
    assert text[start:end] == name


@pytest.mark.parametrize(("name", "text"), INSIDE)
def test_a_name_inside_a_longer_word_or_character_is_no_mention(name: str, text: str):
    assert name in text and mentions(name, text) == []


def test_every_mention_is_found():
    assert mentions("Ra", "Ra, Ravi and Ra") == [(0, 2), (13, 15)]
