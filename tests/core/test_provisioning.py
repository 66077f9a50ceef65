"""Provisioning templates: what is refused when they are given, what only the parameters show, and what they make."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import provisioning
from marram.core.errors import Invalid, Unsupported
from marram.core.provisioning import CERTIFICATE_ID, BadParameters, BadTemplate, Kind

DOCUMENT = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Publish","Resource":"*"}]}'
GIVEN = {CERTIFICATE_ID: "c" * 64, "AWS::Region": "local-1", "AWS::AccountId": "000000000001", "AWS::Partition": "aws"}
FLEET = {
    "Parameters": {"Serial": {"Type": "String"}, "Place": {"Type": "String", "Default": "WA"}},
    "Mappings": {"Urls": {"WA": {"url": "https://wa", "all": ["a", "b"]}}},
    "Resources": {
        "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Serial"}}},
        "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": CERTIFICATE_ID}}},
        "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": DOCUMENT}},
    },
}


def changed(path, value, base=FLEET):
    """The template with one place set; None takes it away."""
    made = copy.deepcopy(base)
    *above, last = path.split(".")
    at = made
    for key in above:
        at = at.setdefault(key, {})
    if value is None:
        del at[last]
    else:
        at[last] = value
    return made


def named(value):
    """The template with this expression for the thing's name."""
    return changed("Resources.thing.Properties.ThingName", value)


def parse(body, kind=Kind.FLEET):
    return provisioning.parse(body if isinstance(body, str) else json.dumps(body), kind)


def name_with(value, parameters):
    """The thing's name when its expression is `value`."""
    return provisioning.evaluate(parse(named(value)), parameters, GIVEN).thing.name


OTHER_POLICY = changed("Resources.policy.Properties", {"PolicyName": {"Fn::Sub": "p-${thing}"}})
IN_A_CIRCLE = changed("Resources.thing.Properties.ThingName", {"Ref": "policy"}, OTHER_POLICY)
OF_A_DEVICE = changed("Resources.certificate.Properties", {"CertificateSigningRequest": {"Ref": "Serial"}})
OF_SOMEBODY = changed("Resources.certificate.Properties", {"CertificateId": "c" * 64})
FIELD = "AWS::IoT::Certificate::CommonName"
TWICE = json.dumps(FLEET).replace('"Serial": {', '"Place": {"Type": "String"}, "Serial": {', 1)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        pytest.param("{", "template: not JSON", id="not JSON"),
        pytest.param("[]", "must be a JSON object", id="not an object"),
        pytest.param(" " * 10_241, "the limit is 10240", id="too large"),
        pytest.param(json.dumps({"Resources": {}}), "Resources: declares nothing", id="no resources"),
        pytest.param(changed("Version", "1"), "template: unknown key 'Version'", id="unknown key at the top"),
        pytest.param(changed("Parameters.Serial.Typ", "String"), "Parameters.Serial: unknown key", id="unknown key of a parameter"),
        pytest.param(changed("Parameters.Serial.Type", "Number"), 'Type: must be "String"', id="type of a parameter"),
        pytest.param(changed("Parameters.Serial.Default", 1), "Default: must be a string", id="default is a number"),
        pytest.param(changed(f"Parameters.{FIELD}", {"Type": "String"}), "no such parameter", id="field of JITP"),
        pytest.param(changed(f"Parameters.{CERTIFICATE_ID}", {"Type": "String", "Default": "x"}), "always given", id="default of ours"),
        pytest.param(changed("Resources.thing.Type", "AWS::S3::Bucket"), "Resources.thing.Type", id="unknown type"),
        pytest.param(changed("Resources.thing.Properties.Name", "x"), "unknown key 'Name'", id="unknown property"),
        pytest.param(changed("Resources.thing.Tags", []), "Resources.thing: unknown key", id="unknown key of a resource"),
        pytest.param(named(None), "ThingName is missing", id="no thing name"),
        pytest.param(named({"Ref": "Serail"}), "neither a parameter nor a resource is called 'Serail'", id="unknown parameter"),
        pytest.param(named({"Ref": ["Serial"]}), "must be the name", id="Ref of a list"),
        pytest.param(named({"Fn::GetAtt": ["a", "b"]}), "there are Ref", id="unknown function"),
        pytest.param(named({"Fn::Join": ["-"]}), "a list of 2", id="too few arguments"),
        pytest.param(named({"Fn::Join": ["-", "x"]}), "needs a list", id="join of a string"),
        pytest.param(named({"Fn::Join": ["-", []], "Ref": "Serial"}), "stands alone", id="two functions"),
        pytest.param(named({"Fn::FindInMap": ["Uris", "WA", "url"]}), "Mappings has no 'Uris'", id="unknown map"),
        pytest.param(named({"Fn::Split": ["", "x"]}), "at least one character", id="split by nothing"),
        pytest.param(named({"Fn::Sub": "${Nobody}"}), "is called 'Nobody'", id="sub of nobody"),
        pytest.param(named({"Fn::Select": [[1], ["a"]]}), "the index", id="index is a list"),
        pytest.param(named({"Ref": "thing"}), "circle: thing -> thing", id="itself"),
        pytest.param(IN_A_CIRCLE, "circle", id="two in a circle"),
        pytest.param(changed("Resources.certificate", None), "declares no AWS::IoT::Certificate", id="no certificate"),
        pytest.param(OF_SOMEBODY, "Ref", id="somebody's certificate"),
        pytest.param(OF_A_DEVICE, "a template for FLEET_PROVISIONING", id="request of a device"),
        pytest.param(changed("Resources.certificate.Properties.CertificatePem", "x"), "exactly one", id="two certificates in one"),
        pytest.param(changed("Resources.certificate.Properties.CACertificatePem", "x"), "goes with CertificatePem", id="CA alone"),
        pytest.param(changed("Resources.other", FLEET["Resources"]["thing"]), "declares one AWS::IoT::Thing", id="two things"),
        pytest.param(changed("Resources.policy.Properties.PolicyName", "p"), "either PolicyName", id="policy by name and document"),
        pytest.param(changed("Resources.policy.Properties", {}), "either PolicyName", id="policy of nothing"),
        pytest.param(changed("Resources.thing.OverrideSettings.ThingGroups", "REPLACE_ALL"), "must be one of", id="unknown override"),
        pytest.param(changed("Resources.thing.OverrideSettings.ThingTypeName", "MERGE"), "must be one of", id="merge of a type"),
        pytest.param(changed("Resources.thing.OverrideSettings.ThingName", "REPLACE"), "has AttributePayload", id="override of the name"),
        pytest.param(changed("Resources.policy.OverrideSettings.PolicyName", "REPLACE"), "has none", id="override of a policy"),
        pytest.param(changed("Resources.Serial", FLEET["Resources"]["policy"]), "same name", id="resource named as a parameter"),
        pytest.param(changed("Mappings.Urls.WA.url", {"Ref": "Serial"}), "no functions here", id="function in a map"),
        pytest.param(changed("DeviceConfiguration.a", {"Ref": "b"}), "DeviceConfiguration.a.Ref", id="device configuration"),
        pytest.param(TWICE, "duplicate key", id="duplicate key"),
    ],
)  # fmt: skip
def test_refused_when_it_is_given(body, place):
    with pytest.raises(BadTemplate) as caught:
        parse(body)
    assert place in caught.value.message


@pytest.mark.parametrize("name", ["BillingGroup", "PackageVersions"])
def test_what_aws_has_and_we_have_not_is_refused_by_name(name):
    with pytest.raises(Unsupported, match=name):
        parse(changed(f"Resources.thing.Properties.{name}", "x"))


@pytest.mark.parametrize(
    ("value", "parameters", "name"),
    [
        pytest.param("plain", {}, "plain", id="literal"),
        pytest.param({"Ref": "Place"}, {}, "WA", id="default"),
        pytest.param({"Ref": "Place"}, {"Place": "BC"}, "BC", id="given"),
        pytest.param({"Fn::Join": ["-", ["a", {"Ref": "Serial"}]]}, {}, "a-s1", id="join"),
        pytest.param({"Fn::Join": ["", []]}, {}, "", id="join of nothing"),
        pytest.param({"Fn::Select": [1, ["a", "b"]]}, {}, "b", id="select"),
        pytest.param({"Fn::Select": ["0", {"Fn::Split": [":", {"Ref": "Serial"}]}]}, {"Serial": "x:y"}, "x", id="select of split"),
        pytest.param({"Fn::FindInMap": ["Urls", {"Ref": "Place"}, "url"]}, {}, "https://wa", id="map"),
        pytest.param({"Fn::Select": [1, {"Fn::FindInMap": ["Urls", "WA", "all"]}]}, {}, "b", id="select of map"),
        pytest.param({"Fn::Sub": "${Place}-${!Place}-${Serial}"}, {}, "WA-${Place}-s1", id="sub"),
        pytest.param({"Fn::Sub": ["${x}-${Serial}", {"x": {"Ref": "Place"}}]}, {}, "WA-s1", id="sub with its own"),
        pytest.param({"Fn::Sub": "${AWS::Region}/${AWS::AccountId}"}, {}, "local-1/000000000001", id="where we are"),
        pytest.param({"Fn::Select": [0, {"Fn::Split": ["c", {"Ref": "certificate"}]}]}, {}, "", id="a resource by its name"),
    ],
)  # fmt: skip
def test_values(value, parameters, name):
    assert name_with(value, {"Serial": "s1", **parameters}) == name


@pytest.mark.parametrize(
    ("value", "parameters", "why"),
    [
        pytest.param("x", {}, "parameter Serial is missing", id="missing"),
        pytest.param("x", {"Serial": "1", "Color": "red"}, "'Color' is not declared", id="not declared"),
        pytest.param("x", {"Serial": "1", CERTIFICATE_ID: "d" * 64}, "cannot be given", id="another certificate"),
        pytest.param("x", {"Serial": "1" * 4097}, "over 4096", id="too long"),
        pytest.param({"Fn::Select": [2, ["a", "b"]]}, {"Serial": "1"}, "not in a list of 2", id="index beyond"),
        pytest.param({"Fn::Select": [{"Ref": "Serial"}, ["a"]]}, {"Serial": "-1"}, "index '-1'", id="negative index"),
        pytest.param({"Fn::FindInMap": ["Urls", {"Ref": "Place"}, "url"]}, {"Serial": "1", "Place": "XX"}, "no 'Urls.XX", id="not in it"),
        pytest.param({"Fn::FindInMap": ["Urls", "WA", "all"]}, {"Serial": "1"}, "must be a string, not array", id="list for a string"),
        pytest.param(["a"], {"Serial": "1"}, "must be a string", id="list for a name"),
        pytest.param({"a": "b"}, {"Serial": "1"}, "must be a string", id="object for a name"),
        pytest.param(7, {"Serial": "1"}, "must be a string", id="number for a name"),
        pytest.param({"Fn::Join": ["", [{"Ref": "Serial"}] * 20]}, {"Serial": "1" * 4000}, "over 65536", id="longer and longer"),
        pytest.param({"Fn::Select": [0, {"Fn::Split": ["1", {"Ref": "Serial"}]}]}, {"Serial": "1" * 2000}, "over 1000", id="parts"),
    ],
)  # fmt: skip
def test_refused_with_the_parameters(value, parameters, why):
    with pytest.raises(BadParameters) as caught:
        name_with(value, parameters)
    assert why in caught.value.message


LOOSE = ["*", "a/*", "a?", "${iot:ClientId}", '"', "\\", "}", "\n"]


@pytest.mark.parametrize("value", LOOSE)
@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"Fn::Sub": DOCUMENT.replace('"*"', '"arn:aws:iot:*:*:topic/${Serial}"')}, id="text"),
        pytest.param(json.loads(DOCUMENT.replace('"*"', '{"Fn::Join":["/",["topic",{"Ref":"Serial"}]]}')), id="object"),
    ],
)
def test_what_a_device_says_cannot_make_its_policy_wider(document, value):
    template = parse(changed("Resources.policy.Properties.PolicyDocument", document))
    with pytest.raises(BadParameters, match="parameter Serial goes into a policy"):
        provisioning.evaluate(template, {"Serial": value}, GIVEN)
    made = provisioning.evaluate(template, {"Serial": "good-1"}, GIVEN)
    assert "good-1" in made.policies[0].document


@pytest.mark.parametrize("value", LOOSE)
def test_an_operator_may_who_could_write_the_policy_as_well(value):
    body = changed("Resources.policy.Properties.PolicyDocument", {"Statement": {"Resource": {"Ref": "Serial"}}})
    body = changed("Resources.certificate.Properties.CertificateId", {"Ref": "Place"}, body)
    template = parse(body, Kind.REGISTRATION)
    document = provisioning.evaluate(template, {"Serial": value}, {}).policies[0].document
    assert json.loads(document) == {"Statement": {"Resource": value}}


def test_a_whole_plan():
    body = changed("DeviceConfiguration", {"url": {"Fn::FindInMap": ["Urls", "WA", "url"]}, "deep": {"n": 1}})
    body = changed("Resources.thing.Properties.AttributePayload", {"v": "1", "s": {"Ref": "Serial"}}, body)
    body = changed("Resources.thing.Properties.ThingGroups", ["g", {"Ref": "Place"}, "g"], body)
    body = changed("Resources.thing.Properties.ThingTypeName", "lamp", body)
    body = changed("Resources.thing.OverrideSettings", {"AttributePayload": "MERGE", "ThingGroups": "DO_NOTHING"}, body)
    body = changed("Resources.certificate.Properties.Status", "Inactive", body)
    plan = provisioning.evaluate(parse(body), {"Serial": "s1"}, GIVEN)
    assert plan.thing is not None and plan.certificate is not None
    assert (plan.thing.name, plan.thing.type_name, plan.thing.groups) == ("s1", "lamp", ("g", "WA"))
    assert plan.thing.attributes == {"v": "1", "s": "s1"}
    assert (plan.thing.on_attributes, plan.thing.on_type, plan.thing.on_groups) == ("MERGE", "FAIL", "DO_NOTHING")
    assert (plan.certificate.source, plan.certificate.value, plan.certificate.status) == ("id", "c" * 64, "INACTIVE")
    assert plan.policies[0].document == DOCUMENT and len(plan.policies[0].name) == 64
    assert plan.configuration == {"url": "https://wa", "deep": {"n": 1}}


def test_just_in_time_wants_the_fields_of_the_certificate():
    field = FIELD
    body = {"Parameters": {field: {"Type": "String"}}, "Resources": {**FLEET["Resources"]}}
    body = changed("Resources.thing.Properties.ThingName", {"Ref": field}, body)
    assert provisioning.evaluate(parse(body, Kind.JITP), {}, {**GIVEN, field: "pump"}).thing.name == "pump"
    with pytest.raises(BadParameters, match="CommonName is missing"):
        provisioning.evaluate(parse(body, Kind.JITP), {}, GIVEN)
    undeclared = changed("Parameters", None, body)
    with pytest.raises(BadParameters, match="CommonName has no value"):
        provisioning.evaluate(parse(undeclared, Kind.JITP), {}, GIVEN)
    with pytest.raises(BadTemplate, match="nobody would get it"):
        parse(changed("DeviceConfiguration", {"a": "b"}, body), Kind.JITP)


KEYS = ["Ref", "Fn::Join", "Fn::Select", "Fn::FindInMap", "Fn::Sub", "a", "Type", "Properties"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.text(max_size=8)
    | st.sampled_from([{"Ref": "Serial"}, {"Ref": "thing"}, {"Fn::Sub": "${Serial}${policy}"}, {"Fn::Split": [",", "a,b"]}]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
places = st.sampled_from(
    ["Parameters", "Mappings", "Resources", "DeviceConfiguration", "Resources.thing", "Resources.policy.Properties",
     "Resources.thing.Properties.ThingName", "Resources.thing.Properties.AttributePayload", "Resources.thing.Properties.ThingGroups",
     "Resources.policy.Properties.PolicyDocument", "Resources.certificate.Properties.Status", "Resources.thing.OverrideSettings"]
)  # fmt: skip


@given(place=places, value=json_values, serial=st.text(max_size=20))
def test_any_template_is_refused_or_makes_a_plan_of_its_size(place, value, serial):
    try:
        template = parse(changed(place, value if value is not None else {}))
        plan = provisioning.evaluate(template, {"Serial": serial}, GIVEN)
    except (Invalid, Unsupported):
        return
    assert plan.certificate is not None and plan.certificate.value == "c" * 64
