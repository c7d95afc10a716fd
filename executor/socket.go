package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pipefill"
)

const (
	// A client that says nothing for this long is cut off.
	clientIdle = 10 * time.Second
	// Clients at once, in all and of one user: the library asks once a process
	// and hangs up, so a node full of ranks stays far below.
	clientsMax     = 512
	clientsUserMax = 128
)

// request is a datagram with its sender.
type request struct {
	message
	pid int
	uid uint32
}

// handler answers a request; the files go along and are closed afterwards.
type handler func(ctx context.Context, r request) (reply, []*os.File)

// server answers one socket.
type server struct {
	log      *slog.Logger
	listener *net.UnixListener
	handle   handler
	perUser  int

	mu      sync.Mutex
	clients map[uint32]int
	total   int
	group   sync.WaitGroup
}

// listen makes the socket at path with its mode, in place of a dead one.
func listen(log *slog.Logger, path string, mode fs.FileMode, perUser int, handle handler) (*server, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	// run has set a umask that keeps everybody out until here.
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), l.Close())
	}
	return &server{log: log.With("socket", filepath.Base(path)), listener: l, handle: handle, perUser: perUser, clients: map[uint32]int{}}, nil
}

// serve answers until ctx ends; then it waits for the answers under way.
func (s *server) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer stop()
	defer s.group.Wait()
	for {
		conn, err := s.listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			// Out of descriptors: those who hang up give some back.
			s.log.WarnContext(ctx, "client not accepted", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		cred, err := peerCred(conn)
		if err != nil || !s.enter(cred.Uid) {
			_ = conn.Close()
			continue
		}
		s.group.Go(func() {
			defer s.leave(cred.Uid)
			defer func() { _ = conn.Close() }()
			stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
			defer stop()
			s.client(ctx, conn, cred)
		})
	}
}

// peerCred is who connected, as the kernel noted it then.
func peerCred(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("ask for credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return nil, fmt.Errorf("ask for credentials: %w", err)
	}
	return cred, nil
}

func (s *server) enter(uid uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= clientsMax || s.clients[uid] >= s.perUser {
		return false
	}
	s.total++
	s.clients[uid]++
	return true
}

func (s *server) leave(uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.clients[uid]--; s.clients[uid] == 0 {
		delete(s.clients, uid)
	}
}

// client answers one connection, datagram by datagram.
func (s *server) client(ctx context.Context, conn *net.UnixConn, cred *unix.Ucred) {
	buf := make([]byte, messageMax+1)
	for ctx.Err() == nil {
		if err := conn.SetReadDeadline(time.Now().Add(clientIdle)); err != nil { //nolint:forbidigo // of the socket, not of a decision
			return
		}
		// Without a buffer for them the kernel closes descriptors sent to us.
		n, _, flags, _, err := conn.ReadMsgUnix(buf, nil)
		if err != nil || n == 0 {
			return
		}
		var m message
		if flags&unix.MSG_TRUNC != 0 {
			n = len(buf)
		}
		var answer reply
		var files []*os.File
		if m, err = parseMessage(buf[:n]); err != nil {
			answer = failed(err)
		} else {
			answer, files = s.handle(ctx, request{message: m, pid: int(cred.Pid), uid: cred.Uid})
		}
		err = send(conn, answer, files)
		for _, f := range files {
			_ = f.Close()
		}
		if err != nil {
			s.log.DebugContext(ctx, "answer not sent", "verb", m.verb, "err", err)
			return
		}
	}
}

func send(conn *net.UnixConn, r reply, files []*os.File) error {
	fds := make([]int, 0, len(files))
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil { //nolint:forbidigo // the same
		return fmt.Errorf("send: %w", err)
	}
	if _, _, err := conn.WriteMsgUnix(r.encode(), oob, nil); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// answerOf turns an error into an answer that says nothing of our insides.
func answerOf(log *slog.Logger, verb string, err error) reply {
	if e, found := errors.AsType[*pipefill.Error](err); found && e.Code != pipefill.CodeInternal {
		return failed(e)
	}
	log.Error("request failed", "verb", verb, "err", err)
	return failed(pipefill.Errorf(pipefill.CodeInternal, "pipefilld could not do it: see its log"))
}
