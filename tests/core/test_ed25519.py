import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from marram.core import ed25519

# RFC 8032, 7.1: TEST 1, 2, 3 and SHA(abc).
VECTORS = [
    pytest.param(
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        id="1",
    ),
    pytest.param(
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        id="2",
    ),
    pytest.param(
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        id="3",
    ),
    pytest.param(
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
        id="sha abc",
    ),
]


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_vectors(key: str, message: str, signature: str) -> None:
    public, text, sig = bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature)
    assert ed25519.verify(public, text, sig)
    assert not ed25519.verify(public, text + b"x", sig)
    for at in (0, 31, 32, 63):
        bad = bytearray(sig)
        bad[at] ^= 1
        assert not ed25519.verify(public, text, bytes(bad))


def test_s_must_be_below_the_order() -> None:
    public, text, sig = (bytes.fromhex(str(v)) for v in VECTORS[1].values)
    s = int.from_bytes(sig[32:], "little") + ed25519.L
    assert not ed25519.verify(public, text, sig[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("key", [b"", b"\xff" * 32, (2**255 - 19).to_bytes(32, "little"), b"\x02" + b"\0" * 31])
def test_a_key_that_is_no_point_verifies_nothing(key: bytes) -> None:
    assert not ed25519.verify(key, b"", b"\0" * 64)
    assert not ed25519.verify(key, b"", b"\0" * 63)


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_agrees_with_openssl(seed: bytes, message: bytes) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert ed25519.verify(public, message, private.sign(message))
    assert not ed25519.verify(public, message + b"!", private.sign(message))
