from marram.edge.pubsub.hub import MAX_ROUTES, Hub, Message


def test_delivers_to_all_that_match_and_stops_after_cancel() -> None:
    hub, got = Hub(), []
    exact = hub.subscribe("a/b", lambda message: got.append(("exact", message.topic)))
    hub.subscribe("a/+", lambda message: got.append(("plus", message.topic)))
    hub.subscribe("#", lambda message: got.append(("all", message.topic)))
    assert hub.publish(Message("a/b")) == 3 and sorted(kind for kind, _ in got) == ["all", "exact", "plus"]
    exact.cancel()
    exact.cancel()
    assert hub.publish(Message("a/b")) == 2 and len(hub) == 2
    assert hub.publish(Message("$aws/x")) == 0


def test_others_only_leaves_out_the_owners_messages() -> None:
    hub = Hub()
    hub.subscribe("t", lambda message: None, owner="me", others_only=True)
    assert hub.publish(Message("t", publisher="me")) == 0
    assert hub.publish(Message("t", publisher="you")) == 1


def test_a_trailing_hash_and_the_level_above() -> None:
    for hub, reached in ((Hub(), 0), (Hub(parent=True), 1)):
        hub.subscribe("a/#", lambda message: None)
        assert hub.publish(Message("a")) == reached
        assert hub.publish(Message("a/b/c")) == 1


def test_routes_are_bounded() -> None:
    hub = Hub()
    hub.subscribe("+", lambda message: None)
    for n in range(MAX_ROUTES + 10):
        assert hub.publish(Message(str(n))) == 1
    assert len(hub._routes) <= MAX_ROUTES


def test_a_document_becomes_bytes_on_demand() -> None:
    assert Message("t", json={"a": [1]}).payload == b'{"a":[1]}'
    assert Message("t", b"raw").payload == b"raw"
