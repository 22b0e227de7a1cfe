"""The keyless policies, with an authority made here in place of Sigstore's public ones.

The authority certifies an identity as Fulcio does for a workflow of a hosted CI: with a certificate
for the signing key. The policies do not require the entries of the signature and of the certificate
in the public logs, which only the public services can create.
"""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.release.published import Release
from tests.release.test_policies import FOLDER, POLICIES, TYPES, copy_of, predicate

ISSUER = "https://token.actions.githubusercontent.com"
WORKFLOW = "https://github.com/gpuid/gpuid-operator/.github/workflows/release.yaml@refs/tags/v0.1.0"
_OLD_ISSUER, _ISSUER = "1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.8"
"""Extensions of Fulcio's certificates, https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md"""


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the authority, and the policy controller's TrustRoot of it."""
    folder = tmp_path_factory.mktemp("authority")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(
        folder,
        *("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"),
        *("-subj", "/O=test/CN=authority", "-addext", "keyUsage=critical,keyCertSign"),
    )
    chain = base64.b64encode((folder / "ca.pem").read_bytes()).decode()
    certificates = {
        "subject": {"organization": "test", "commonName": "authority"},
        "uri": "https://fulcio.example",
        "certChain": chain,
    }
    root = {
        "apiVersion": "policy.sigstore.dev/v1alpha1",
        "kind": "TrustRoot",
        "metadata": {"name": "test"},
        "spec": {"sigstoreKeys": {"certificateAuthorities": [certificates]}},
    }
    (folder / "trustroot.yaml").write_text(yaml.safe_dump(root))
    openssl(folder, "req", *new_key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/")
    return folder


def certify(authority: Path, *, identity: str, issuer: str) -> None:
    """Give the key in leaf.key a certificate, leaf.pem, for an identity."""
    extensions = [
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=codeSigning",
        f"subjectAltName=critical,URI:{identity}",
        f"{_OLD_ISSUER}=DER:{issuer.encode().hex()}",
        f"{_ISSUER}=ASN1:UTF8String:{issuer}",
    ]
    (authority / "extensions").write_text("\n".join(extensions))
    openssl(
        authority,
        *("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
        *("-CAcreateserial", "-days", "1", "-extfile", "extensions", "-out", "leaf.pem"),
    )


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    ("identity", "issuer", "accepted"),
    [
        (WORKFLOW, ISSUER, True),
        (WORKFLOW, "https://elsewhere.example", False),
        (WORKFLOW.replace("tags/v0.1.0", "heads/main"), ISSUER, False),
        (WORKFLOW.replace("release.yaml", "other.yaml"), ISSUER, False),
        (WORKFLOW.replace("gpuid/", "someone/"), ISSUER, False),
    ],
    ids=["ours", "issuer", "branch", "workflow", "repository"],
)
def test_only_the_release_workflow_is_accepted(
    release: Release,
    authority: Path,
    tmp_path: Path,
    *,
    name: str,
    identity: str,
    issuer: str,
    accepted: bool,
) -> None:
    certify(authority, identity=identity, issuer=issuer)
    key = tmp_path / "leaf.key"
    prefix = ("--output-key-prefix", tmp_path / "leaf", "--yes")
    release.island.tool("cosign", "import-key-pair", "--key", authority / "leaf.key", *prefix)
    image = copy_of(release, tmp_path.name.replace("_", "-").replace("[", "").lower())
    release.island.tool(
        *("cosign", "attest", "--key", key, "--certificate", authority / "leaf.pem"),
        *("--certificate-chain", authority / "ca.pem", "--type", TYPES[name]),
        *("--predicate", predicate(release, name), "--tlog-upload=false", image),
        *("--new-bundle-format=false", "--use-signing-config=false"),
    )
    policy = yaml.safe_load((FOLDER / f"{name}-keyless.yaml").read_text())
    (rule,) = policy["spec"]["authorities"]
    del rule["ctlog"]
    rule["keyless"] |= {"trustRootRef": "test", "insecureIgnoreSCT": True}
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(policy))
    arguments = ("-policy", file, "-trustroot", authority / "trustroot.yaml", "-image", image)
    done = release.island.tool("policy-tester", *arguments, "-log-level", "error", check=False)
    assert (done.returncode == 0) == accepted, done.stdout
    if not accepted:
        assert "none of the expected identities matched" in done.stdout
