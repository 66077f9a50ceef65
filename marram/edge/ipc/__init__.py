"""The IPC of components: `aws.greengrass#GreengrassCoreIPC` on a Unix socket, for unmodified Greengrass SDKs."""
