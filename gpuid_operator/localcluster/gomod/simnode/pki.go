package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const validity = 10 * 365 * 24 * time.Hour

// writePKI writes what the servers prove themselves with: one authority (ca.crt,
// its key is thrown away), a certificate each for the API server, for the API
// server as a client of kubelets, and for the kubelet port of the simulated
// nodes, and the key that signs service account tokens. serviceIP is where pods
// find the API server.
func writePKI(folder string, serviceIP net.IP) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := template("gpuid-localcluster")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	if err := writeCertificate(folder, "ca", ca, ca, caKey, caKey); err != nil {
		return err
	}
	apiserver := template("kube-apiserver")
	apiserver.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), serviceIP}
	apiserver.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local"}
	client := template("kube-apiserver-kubelet-client")
	client.Subject.Organization = []string{"system:masters"}
	simnode := template("simnode")
	simnode.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	for name, certificate := range map[string]*x509.Certificate{
		"apiserver": apiserver, "kubelet-client": client, "simnode": simnode,
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		if err := writeKey(folder, name, key); err != nil {
			return err
		}
		if err := writeCertificate(folder, name, certificate, ca, key, caKey); err != nil {
			return err
		}
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return writeKey(folder, "service-accounts", accounts)
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func writeCertificate(folder, name string, certificate, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, certificate, parent, &key.PublicKey, parentKey)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return os.WriteFile(filepath.Join(folder, name+".crt"), text, 0o644)
}

func writeKey(folder, name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return os.WriteFile(filepath.Join(folder, name+".key"), text, 0o600)
}
