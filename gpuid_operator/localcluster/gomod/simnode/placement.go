package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"
)

// placement knows which node each pod sits on. It watches, so that an exec costs
// no request to the API server, and asks for a pod that it has not seen yet.
type placement struct {
	server string
	token  string
	client *http.Client
	mutex  sync.Mutex
	nodes  map[string]string
}

type pod struct {
	Metadata struct{ Namespace, Name string }
	Spec     struct{ NodeName string }
}

func newPlacement(server, token string, trusted *x509.CertPool) *placement {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}
	return &placement{server: server, token: token, client: &http.Client{Transport: transport}, nodes: map[string]string{}}
}

func (p *placement) get(ctx context.Context, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.server+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+p.token)
	response, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return response, nil
}

// watch follows all pods until ctx ends. Every stream starts afresh: what it
// says first is the present state, and a pod that vanished between two streams
// is forgotten with the old map.
func (p *placement) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := p.stream(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "simnode: watch of pods:", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (p *placement) stream(ctx context.Context) error {
	response, err := p.get(ctx, "/api/v1/pods?watch=1")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	p.mutex.Lock()
	p.nodes = map[string]string{}
	p.mutex.Unlock()
	decoder := json.NewDecoder(response.Body)
	for {
		var event struct {
			Type   string
			Object pod
		}
		if err := decoder.Decode(&event); err != nil {
			return err
		}
		key := event.Object.Metadata.Namespace + "/" + event.Object.Metadata.Name
		p.mutex.Lock()
		switch event.Type {
		case "ADDED", "MODIFIED":
			if event.Object.Spec.NodeName != "" {
				p.nodes[key] = event.Object.Spec.NodeName
			}
		case "DELETED":
			delete(p.nodes, key)
		}
		p.mutex.Unlock()
		if event.Type == "ERROR" {
			return fmt.Errorf("the API server ended it")
		}
	}
}

func (p *placement) nodeOf(ctx context.Context, namespace, name string) (string, error) {
	p.mutex.Lock()
	node := p.nodes[namespace+"/"+name]
	p.mutex.Unlock()
	if node != "" {
		return node, nil
	}
	response, err := p.get(ctx, "/api/v1/namespaces/"+namespace+"/pods/"+name)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var found pod
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		return "", err
	}
	if found.Spec.NodeName == "" {
		return "", fmt.Errorf("pod %s/%s is on no node yet", namespace, name)
	}
	return found.Spec.NodeName, nil
}
