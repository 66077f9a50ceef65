import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import query
from marram.core.errors import Invalid
from marram.core.query import MARK, STAR, All, And, Exists, Not, Or, Phrase, QueryError, Range, Wild, Word


def resolve(name):
    if name == "nope":
        raise Invalid(f"{name} is no field")
    return {"alias": "a"}.get(name, name)


def parse(text):
    return query.parse(text, resolve)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        pytest.param("abc", Word(None, "abc"), id="a term"),
        pytest.param("ABC", Word(None, "abc"), id="case does not matter"),
        pytest.param("*", All(), id="everything"),
        pytest.param("a:b", Word("a", "b"), id="a field"),
        pytest.param("alias:b", Word("a", "b"), id="a field by another name"),
        pytest.param("A:b", Word("A", "b"), id="case of a field matters"),
        pytest.param("a : b", Word("a", "b"), id="space around the colon, as in the guide"),
        pytest.param("a:*", Exists("a"), id="a field is there"),
        pytest.param("a:my*", Wild("a", ("my", STAR)), id="prefix"),
        pytest.param("a:ab?", Wild("a", ("ab", MARK)), id="one character"),
        pytest.param("a:i*t", Wild("a", ("i", STAR, "t")), id="wildcard inside"),
        pytest.param("a:*x", Wild("a", (STAR, "x")), id="leading wildcard"),
        pytest.param("a:i\\*t", Word("a", "i*t"), id="escaped wildcard"),
        pytest.param("a:i\\*t?", Wild("a", ("i*t", MARK)), id="escaped wildcard beside one"),
        pytest.param('a:"i*t"', Word("a", "i*t"), id="quoted wildcard"),
        pytest.param('a:"New York"', Phrase("a", ("new", "york")), id="phrase"),
        pytest.param("a:new\\ york", Phrase("a", ("new", "york")), id="escaped space"),
        pytest.param('"say \\"hi\\""', Phrase(None, ("say", '"hi"')), id="escaped quotes"),
        pytest.param("a\\:b:c", Word("a:b", "c"), id="escaped colon in a field"),
        pytest.param('a:"x/y@z"', Word("a", "x/y@z"), id="quoted special characters"),
        pytest.param("a:75.0", Word("a", "75"), id="a number in another form"),
        pytest.param("a:-5", Word("a", "-5"), id="a negative number"),
        pytest.param("a:007", Word("a", "007"), id="no number: leading zeros"),
        pytest.param("a:[75 TO 80]", Range("a", 75, 80), id="range"),
        pytest.param("a:{75 TO 80]", Range("a", 75, 80, with_low=False), id="range without its low end"),
        pytest.param("a:[75 TO 80}", Range("a", 75, 80, with_high=False), id="range without its high end"),
        pytest.param("a:[-5 TO *]", Range("a", -5, None), id="open range"),
        pytest.param("a:[* TO *]", Exists("a"), id="range open on both sides"),
        pytest.param('a:["abcd" TO "abcf"]', Range("a", "abcd", "abcf"), id="range of words"),
        pytest.param('a:["1" TO "5"]', Range("a", "1", "5"), id="quoted numbers are words"),
        pytest.param("a:[1 TO x]", Range("a", "1", "x"), id="a number and a word are words"),
        pytest.param("a<5", Range("a", None, 5, with_high=False), id="less"),
        pytest.param("a>=5", Range("a", 5, None), id="at least"),
        pytest.param("a > 1557651600000", Range("a", 1557651600000, None, with_low=False), id="more, with spaces"),
        pytest.param("a b", And((Word(None, "a"), Word(None, "b"))), id="AND that is not said"),
        pytest.param("a AND b", And((Word(None, "a"), Word(None, "b"))), id="AND"),
        pytest.param("a OR b", Or((Word(None, "a"), Word(None, "b"))), id="OR"),
        pytest.param("a and b", And((Word(None, "a"), Word(None, "and"), Word(None, "b"))), id="and is a word"),
        pytest.param("a OR b c", Or((Word(None, "a"), And((Word(None, "b"), Word(None, "c"))))), id="AND binds closer"),
        pytest.param("NOT a b", And((Not(Word(None, "a")), Word(None, "b"))), id="NOT binds closest"),
        pytest.param("-a", Not(Word(None, "a")), id="hyphen"),
        pytest.param("-a:b", Not(Word("a", "b")), id="hyphen before a field"),
        pytest.param("a-b", Word(None, "a-b"), id="hyphen inside"),
        pytest.param("a:(tv* AND -plasma)", And((Wild("a", ("tv", STAR)), Not(Word("a", "plasma")))), id="field group"),
        pytest.param("(a OR b) c", And((Or((Word(None, "a"), Word(None, "b"))), Word(None, "c"))), id="group"),
        pytest.param("a\u00a0b", Word(None, "a\u00a0b"), id="a no-break space parts no words"),
        pytest.param("a\u2003b", And((Word(None, "a"), Word(None, "b"))), id="an em space does"),
        pytest.param("; DROP".replace(";", "\\;"), And((Word(None, ";"), Word(None, "drop"))), id="injection is text"),
    ],
)  # fmt: skip
def test_queries(text, tree):
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        pytest.param("", 1, "empty", id="empty"),
        pytest.param("   ", 4, "empty", id="blank"),
        pytest.param("(a", 1, "not closed", id="open parenthesis"),
        pytest.param("a)", 2, "closes nothing", id="closing parenthesis"),
        pytest.param("()", 2, "nothing between", id="empty group"),
        pytest.param("a:()", 4, "nothing between", id="empty field group"),
        pytest.param('a "b', 3, "not closed", id="open quotes"),
        pytest.param("a\\", 2, "escaping", id="ends with an escape"),
        pytest.param('""', 1, "empty", id="empty phrase"),
        pytest.param("a:", 3, "missing", id="no value"),
        pytest.param(":a", 1, "cannot start", id="no field"),
        pytest.param("a:b:c", 4, "cannot start", id="two colons"),
        pytest.param("nope:x", 1, "no field", id="unknown field"),
        pytest.param("x AND nope:x", 7, "no field", id="unknown field further on"),
        pytest.param("a*:x", 1, "no wildcards", id="wildcard in a field"),
        pytest.param("a:(b:c)", 4, "within the group", id="field in a field group"),
        pytest.param("a:[1 2]", 6, "TO", id="range without TO"),
        pytest.param("a:[1 TO 2", 3, "not closed", id="open range"),
        pytest.param("a:[1 TO]", 8, "missing", id="range without end"),
        pytest.param("a:[1* TO 2]", 4, "wildcards", id="wildcard in a bound"),
        pytest.param('a:["x y" TO z]', 4, "one word", id="two words in a bound"),
        pytest.param("a>*", 3, "needs a value", id="comparison with everything"),
        pytest.param("a=5", 2, "=", id="equals sign"),
        pytest.param("a AND", 6, "missing", id="ends with AND"),
        pytest.param("OR a", 1, "before OR", id="begins with OR"),
        pytest.param("a AND OR b", 7, "before OR", id="two operators"),
        pytest.param("NOT", 4, "missing", id="NOT nothing"),
        pytest.param("- a", 3, "hyphen", id="a hyphen and a space"),
        pytest.param("a/b", 2, "regular expressions", id="slash"),
        pytest.param("a^2", 2, "boosting", id="boost"),
        pytest.param("a~", 2, "fuzzy", id="fuzzy"),
        pytest.param("a; DROP TABLE x", 2, "character ;", id="semicolon"),
        pytest.param("' OR 1=1", 1, "single quotes", id="single quotes"),
        pytest.param("a@b", 2, "character @", id="at"),
        pytest.param("*a *b", 4, "a second is", id="two leading wildcards"),
        pytest.param("a:***", 3, "at most 2 *", id="three stars"),
        pytest.param("a:??????", 3, "5 ?", id="six question marks"),
        pytest.param("?" + "a" * 100, 101, "leading wildcard", id="long with a leading wildcard"),
        pytest.param(" ".join("abcdefghijklm"), 25, "at most 12 terms", id="13 terms"),
        pytest.param("a" * 1001, 1001, "at most 1000", id="1,001 characters"),
        pytest.param("(" * 17 + "a" + ")" * 17, 18, "deeper", id="too deep"),
        pytest.param("NOT " * 17 + "a", 69, "deeper", id="too many NOT"),
    ],
)
def test_wrong_queries_name_the_place(text, at, why):
    with pytest.raises(QueryError, match=why.replace("*", r"\*").replace("?", r"\?")) as caught:
        parse(text)
    assert caught.value.data["at"] == at
    assert f"character {at}" in caught.value.message


def test_limits_are_inclusive():
    parse("a" * 1000)
    parse(" ".join("abcdefghijkl"))
    parse("(" * 16 + "a" + ")" * 16)
    parse("*" + "a" * 99)
    parse("a:?????")


@pytest.mark.parametrize(
    ("value", "texts", "number"),
    [
        pytest.param("ABC", ["abc"], None, id="word"),
        pytest.param("75", ["75"], 75.0, id="number in a string"),
        pytest.param("1.50", ["1.50", "1.5"], 1.5, id="number in another form"),
        pytest.param(1e2, ["100"], 100.0, id="float"),
        pytest.param(7, ["7"], 7.0, id="integer"),
        pytest.param(2**53, [str(2**53)], None, id="integer that a double does not hold"),
        pytest.param("1e999", ["1e999"], None, id="number beyond a double"),
        pytest.param("0x10", ["0x10"], None, id="no JSON number"),
        pytest.param(True, ["true"], None, id="true"),
        pytest.param("New  York", ["new", "york", " new york "], None, id="words and the whole"),
        pytest.param("", [""], None, id="empty"),
        pytest.param("a\0b", ["a", "b", " a b "], None, id="NUL parts words"),
        pytest.param("x" * 1001, [""], None, id="a word too long to be indexed is there all the same"),
        pytest.param("\u039f\u0394\u039f\u03a3", ["\u03bf\u03b4\u03bf\u03c3"], None, id="one lower case of sigma"),
    ],
)
def test_entries(value, texts, number):
    found = query.entries(value)
    assert [entry.text for entry in found] == texts
    assert found[0].number == number


DOCUMENT = {
    "name": query.entries("pump-7"),
    "temp": query.entries("21.50"),
    "city": query.entries("New York City"),
    "tags": [*query.entries("RED"), *query.entries("blue")],
    "note": query.entries("100% _sure_"),
}
BARE = [entry for found in DOCUMENT.values() for entry in found]


@pytest.mark.parametrize(
    "text",
    [
        "*", "name:pump-7", "name:PUMP*", "temp:21.5", "temp:[21 TO 22]", "temp>21", "NOT temp>22", "city:york",
        'city:"york city"', 'city:"new york city"', "tags:red", "tags:blue", "tags:(red AND blue)", "pump-7", "york",
        "21.5", "note:100\\%*", "note:_sure_", "tags:r?d", "tags:*e", "name:* -temp:5", 'name:["a" TO "z"]',
    ],
)  # fmt: skip
def test_documents_that_fit(text):
    assert query.matches(parse(text), DOCUMENT, BARE)


@pytest.mark.parametrize(
    "text",
    [
        "NOT *", "name:pump", "temp:2150", "temp<21.5", "temp:{21.5 TO 22]", 'city:"new city"', "city:n*y", "york-city",
        "tags:(red AND green)", "tags:re", "missing:*", "missing<5", "name>5", "note:100x", "tags:?ed?", "city:*new?york*",
    ],
)  # fmt: skip
def test_documents_that_do_not_fit(text):
    assert not query.matches(parse(text), DOCUMENT, BARE)


@given(st.text(max_size=200) | st.text(alphabet='ab:()[]{}"*?\\<>=- ANDORTO', max_size=60))
def test_any_text_is_read_or_refused_with_its_place(text):
    found, at = None, 0
    try:
        found = parse(text)
    except QueryError as refused:
        at = refused.data["at"]
    if found is None:
        assert 1 <= at <= len(text) + 1
    else:
        query.matches(found, DOCUMENT, BARE)
        assert all(isinstance(name, str) for name in query.fields(found))


@given(st.text(alphabet=string.printable, max_size=40))
def test_a_quoted_value_finds_itself(value):
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    entries = query.entries(value)
    if query.split(value):
        assert query.matches(parse(f'a:"{quoted}"'), {"a": entries}, entries)
    assert query.matches(parse("a:*"), {"a": entries}, entries)
