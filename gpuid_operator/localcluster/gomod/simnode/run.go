package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// runner executes commands for containers of simulated nodes.
type runner struct {
	nodes  string
	marker string
	placed *placement
	mutex  sync.Mutex
	groups map[int]struct{}
}

func (r *runner) handler() http.Handler {
	mux := http.NewServeMux()
	serve := func(w http.ResponseWriter, request *http.Request) {
		options, err := remotecommand.NewOptions(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		name := request.PathValue("namespace") + "/" + request.PathValue("pod")
		remotecommand.ServeExec(w, request, r, name, "", request.PathValue("container"),
			request.Form["command"], options, 4*time.Hour, remotecommand.DefaultStreamCreationTimeout,
			remotecommand.SupportedStreamingProtocols)
	}
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", serve)
	mux.HandleFunc("/exec/{namespace}/{pod}/{uid}/{container}", serve)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

// ExecInContainer runs one command. As with a real container, it goes on when the
// client hangs up: a hung nvidia-smi stays until the node, here the cluster, ends.
func (r *runner) ExecInContainer(ctx context.Context, name, _, _ string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	namespace, podName, _ := strings.Cut(name, "/")
	node, err := r.placed.nodeOf(ctx, namespace, podName)
	if err != nil {
		return err
	}
	folder := filepath.Join(r.nodes, node)
	program, err := exec.LookPath(command[0])
	if err != nil || hidden(folder, command[0]) {
		return fmt.Errorf("failed to exec in container: failed to start exec %q: OCI runtime exec failed: exec failed: "+
			"unable to start container process: exec: %q: executable file not found in $PATH: unknown", rand.Text(), command[0])
	}
	process := exec.Command(program, command[1:]...)
	process.Args[0] = command[0]
	process.Dir = folder
	process.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "HOSTNAME=" + podName, "NODE_NAME=" + node,
		"GPUID_NODE_DIR=" + folder, r.marker,
	}
	if tty {
		err = r.withTerminal(process, in, out, resize)
	} else {
		err = r.withPipes(process, in, out, errOut)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code := exit.ExitCode()
		if code < 0 { // ended by a signal: what a container runtime reports
			code = 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
		}
		return utilexec.CodeExitError{Err: err, Code: code}
	}
	return err
}

func (r *runner) withPipes(process *exec.Cmd, in io.Reader, out, errOut io.WriteCloser) error {
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if out != nil {
		process.Stdout = out
	}
	if errOut != nil {
		process.Stderr = errOut
	}
	if in != nil {
		// A pipe of our own: with process.Stdin, Wait would wait for the client
		// to close its end.
		stdin, err := process.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(stdin, in)
			_ = stdin.Close()
		}()
	}
	if err := process.Start(); err != nil {
		return err
	}
	defer r.track(process.Process.Pid)()
	return process.Wait()
}

func (r *runner) withTerminal(process *exec.Cmd, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) error {
	terminal, err := pty.Start(process)
	if err != nil {
		return err
	}
	defer terminal.Close()
	defer r.track(process.Process.Pid)()
	go func() {
		for size := range resize {
			_ = pty.Setsize(terminal, &pty.Winsize{Rows: size.Height, Cols: size.Width})
		}
	}()
	if in != nil {
		go func() { _, _ = io.Copy(terminal, in) }()
	}
	_, _ = io.Copy(out, terminal)
	return process.Wait()
}

// track remembers a process group while its leader runs.
func (r *runner) track(pid int) func() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.groups[pid] = struct{}{}
	return func() {
		r.mutex.Lock()
		defer r.mutex.Unlock()
		delete(r.groups, pid)
	}
}

func (r *runner) killAll() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for pid := range r.groups {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
}

// hidden tells whether the node's behaviour says that its containers have no
// nvidia-smi.
func hidden(folder, command string) bool {
	if filepath.Base(command) != "nvidia-smi" {
		return false
	}
	text, err := os.ReadFile(filepath.Join(folder, "behaviour.json"))
	if err != nil {
		return false
	}
	var behaviour struct{ Missing bool }
	return json.Unmarshal(text, &behaviour) == nil && behaviour.Missing
}
