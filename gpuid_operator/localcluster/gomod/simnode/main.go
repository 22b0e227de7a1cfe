// The kubelet port of the simulated nodes. KWOK plays the life of nodes and pods;
// this server runs what is executed in their containers, on this machine, in the
// folder of the node that the pod sits on, and returns exit codes as a real
// kubelet does.
//
// KWOK's own exec server is not used because it knows a container's environment
// only by pod names that are fixed beforehand, and a DaemonSet's pods get a new
// name each time; and because it turns every exit code into an internal error.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "pki" {
		exitOn(writePKI(os.Args[2], net.ParseIP(os.Args[3])))
		return
	}
	listen := flag.String("listen", "", "address of the kubelet port, 127.0.0.1:PORT")
	server := flag.String("server", "", "URL of the API server")
	tokenFile := flag.String("token-file", "", "file with the bearer token for the API server")
	pki := flag.String("pki", "", "folder written by 'simnode pki'")
	nodes := flag.String("nodes", "", "folder with one folder per simulated node")
	marker := flag.String("marker", "", "NAME=VALUE in the environment of every command, to find it by")
	flag.Parse()

	token, err := os.ReadFile(*tokenFile)
	exitOn(err)
	trusted := x509.NewCertPool()
	ca, err := os.ReadFile(*pki + "/ca.crt")
	exitOn(err)
	trusted.AppendCertsFromPEM(ca)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	placed := newPlacement(*server, string(token), trusted)
	go placed.watch(ctx)
	runner := &runner{nodes: *nodes, marker: *marker, placed: placed, groups: map[int]struct{}{}}
	https := &http.Server{
		Addr:    *listen,
		Handler: runner.handler(),
		// Only the API server may execute: without this every user of the
		// machine could run commands as the owner of the cluster.
		TLSConfig: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted},
		// Exec upgrades the connection, which HTTP/2 has no way to do.
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() { exitOn(https.ListenAndServeTLS(*pki+"/simnode.crt", *pki+"/simnode.key")) }()
	<-ctx.Done()
	runner.killAll()
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "simnode:", err)
		os.Exit(1)
	}
}
