"""A thing with its certificate and policy, and the connections of the unmodified awsiotsdk that it opens."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from awscrt import io
from awsiot import mqtt5_client_builder, mqtt_connection_builder

LIMIT_S = 15.0


class SdkDevice:
    """`connect` gives what the service clients of the SDK take, ready; `close` ends all of them."""

    def __init__(self, hub: Any, folder: Path, thing: str, policy: Mapping[str, Any]) -> None:
        self.hub, self.iot = hub, hub.client("iot")
        made = self.iot.create_keys_and_certificate(setAsActive=True)
        self.arn = self.iot.create_thing(thingName=thing)["thingArn"]
        self.iot.create_policy(policyName=thing, policyDocument=json.dumps(policy))
        self.iot.attach_policy(policyName=thing, target=made["certificateArn"])
        self.iot.attach_thing_principal(thingName=thing, principal=made["certificateArn"])
        certificate, key = folder / f"{thing}.pem", folder / f"{thing}.key"
        certificate.write_text(made["certificatePem"])
        key.write_text(made["keyPair"]["PrivateKey"])
        self.options: dict[str, Any] = {
            "endpoint": "localhost", "port": hub.port("mqtt"), "ca_filepath": hub.info["ca_file"], "client_id": thing,
            "cert_filepath": str(certificate), "pri_key_filepath": str(key),
        }  # fmt: skip
        self.closers: list[Callable[[], object]] = []

    def connect(self, version: str, **more: Any) -> Any:
        """`version`: "3.1.1" or "5"; `more` goes to the builder of 3.1.1."""
        if version == "3.1.1":
            bootstrap = io.ClientBootstrap.get_or_create_static_default()
            connection = mqtt_connection_builder.mtls_from_path(
                **self.options, client_bootstrap=bootstrap, clean_session=True, keep_alive_secs=30, **more
            )
            connection.connect().result(LIMIT_S)
            self.closers.append(lambda: connection.disconnect().result(LIMIT_S))
            return connection
        up, down = threading.Event(), threading.Event()
        client = mqtt5_client_builder.mtls_from_path(
            **self.options, on_publish_received=lambda _: None, on_lifecycle_connection_success=lambda _: up.set(),
            on_lifecycle_stopped=lambda _: down.set(),
        )  # fmt: skip
        client.start()
        assert up.wait(LIMIT_S)
        self.closers.append(lambda: (client.stop(), down.wait(LIMIT_S)))
        return client

    def close(self) -> None:
        for close in reversed(self.closers):
            close()
