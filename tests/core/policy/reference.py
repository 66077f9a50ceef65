"""The rules of policies read plainly: lists of characters, recursion, no caches. Shares nothing with marram.core.policy.

`decide(documents, action, resource, values)` -> "allowed", "explicit deny" or "implicit deny". Undecided (None) never
grants. values: {key: text or tuple of texts}. Documents are parsed JSON, as AWS would take them.
"""

import base64
import datetime
import ipaddress
import re

UNSAFE = set("*?#+/${}")


def decide(documents, action, resource, values):
    given = {key.partition("[")[0].lower() + "".join(key.partition("[")[1:]): value for key, value in values.items()}
    effects = {
        statement["Effect"]
        for document in documents
        for statement in _list(document["Statement"])
        if _applies(statement, action, resource, given)
    }
    return "explicit deny" if "Deny" in effects else "allowed" if "Allow" in effects else "implicit deny"


def _applies(s, action, resource, values):
    denies = s["Effect"] == "Deny"
    acts = s.get("Action", s.get("NotAction"))
    if any(_like(list(a.lower()), action.lower(), "") for a in _list(acts)) == ("NotAction" in s):
        return False
    negated = "NotResource" in s
    found = [
        _match(r, resource, values, denies and not negated, "" if denies else "+#")
        for r in _list(s.get("Resource", s.get("NotResource")))
    ]
    answers = [_any_of(found, negated)]
    for name, keys in s.get("Condition", {}).items():
        for key, wanted in keys.items():
            answers.append(_condition(name, _value(values, key), [_word(w) for w in _list(wanted)], values, denies))
    return all(denies if a is None else a for a in answers)


def _any_of(found, negated):
    if True in found:
        return not negated
    return (None if None in found else True) if negated else False


def _condition(name, actual, wanted, values, denies):
    prefix, _, op = name.rpartition(":")
    if op == "Null":
        return ("true" if actual is None else "false") in [w.lower() for w in wanted]
    if_exists, op = op.endswith("IfExists"), op.removesuffix("IfExists")
    negated = "Not" in op
    if actual is None or actual == ():
        return True if if_exists or prefix == "ForAllValues" else False if prefix else negated
    op = op.replace("Not", "")
    held = [
        _any_of([_compare(op, a, w, values, denies and not negated) for w in wanted], negated)
        for a in ([actual] if isinstance(actual, str) else actual)
    ]
    if prefix == "ForAnyValue" or (not prefix and not negated):
        return True if True in held else None if None in held else False
    return False if False in held else None if None in held else True


def _compare(op, actual, wanted, values, trusting):
    if op == "StringLike":
        return _match(wanted, actual, values, trusting, "")
    if op in ("ArnLike", "ArnEquals"):
        found = _match(wanted, actual, values, trusting, "")
        return found if found is None else found and actual.startswith("arn:")
    tokens = _substitute(wanted, values, trusting)
    if tokens is None:
        return None
    text = "".join(c if isinstance(c, str) else c[0] for c in tokens)
    try:
        if op.startswith("String"):
            return actual.lower() == text.lower() if op.endswith("IgnoreCase") else actual == text
        if op == "Bool":
            return {"true": True, "false": False}[actual.lower()] == {"true": True, "false": False}[text.lower()]
        if op == "BinaryEquals":
            return base64.b64decode(actual, validate=True) == base64.b64decode(text, validate=True)
        if op == "IpAddress":
            address = ipaddress.ip_address(actual)
            mapped = getattr(address, "ipv4_mapped", None)  # RFC 4291, 2.5.5.2: the same host written the longer way
            return (mapped or address) in ipaddress.ip_network(text, strict=False)
        read = _number if op.startswith("Numeric") else _seconds
        one, other = read(actual), read(text)
    except (ValueError, KeyError):
        return None
    return {
        "Equals": one == other,
        "LessThan": one < other,
        "LessThanEquals": one <= other,
        "GreaterThan": one > other,
        "GreaterThanEquals": one >= other,
    }[op.removeprefix("Numeric").removeprefix("Date")]


def _number(text):
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        raise ValueError(text)
    return float(text)


def _seconds(text):
    if text.isdigit():
        return float(text)
    moment = datetime.datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _match(pattern, text, values, trusting, not_by_one):
    tokens = _substitute(pattern, values, trusting)
    return None if tokens is None else _like(tokens, text, not_by_one)


def _substitute(pattern, values, trusting):
    """Characters; those that came from a variable or an escape are 1-tuples and so no wildcards."""
    tokens = []
    for variable, literal in re.findall(r"(\$\{[^}]*\})|(.)", pattern, re.DOTALL):
        if literal:
            tokens.append(literal)
        elif variable[2:-1] in ("*", "?", "$"):
            tokens.append((variable[2:-1],))
        else:
            value = _value(values, variable[2:-1])
            if not isinstance(value, str) or (not trusting and (not value or set(value) & UNSAFE)):
                return None
            tokens += [(c,) for c in value]
    return tokens


def _value(values, key):
    # What an attribute is called has case, what stands before it has none; AWS's examples have two names for one variable.
    start, bracket, rest = key.partition("[")
    key = {"iot:thing.thingname": "iot:connection.thing.thingname"}.get(start.lower(), start.lower()) + bracket + rest
    return values.get(key)


def _like(tokens, text, not_by_one):
    if not tokens:
        return not text
    head, rest = tokens[0], tokens[1:]
    if head == "*":
        return any(_like(rest, text[i:], not_by_one) for i in range(len(text) + 1))
    if not text or (head == "?" and text[0] in not_by_one):
        return False
    return (head == "?" or text[0] == (head if isinstance(head, str) else head[0])) and _like(
        rest, text[1:], not_by_one
    )


def _word(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def _list(value):
    return value if isinstance(value, list) else [value]
