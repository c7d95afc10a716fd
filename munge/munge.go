// Package munge makes and reads munge credentials: who sent a request, signed
// with the key that the hosts of a cluster share. It is the one door to libmunge.
package munge

/*
#cgo LDFLAGS: -lmunge
#include <stdlib.h>
#include <munge.h>
// munge_ctx_set takes its value as a variable argument, which cgo cannot pass.
static munge_err_t set_socket(munge_ctx_t ctx, const char *path)
{
	return munge_ctx_set(ctx, MUNGE_OPT_SOCKET, path);
}
static munge_err_t set_ttl(munge_ctx_t ctx, int seconds)
{
	return munge_ctx_set(ctx, MUNGE_OPT_TTL, seconds);
}
static munge_err_t set_reader(munge_ctx_t ctx, uid_t uid)
{
	munge_err_t rc = munge_ctx_set(ctx, MUNGE_OPT_CIPHER_TYPE, MUNGE_CIPHER_AES128); // whatever munged's default is
	return rc != EMUNGE_SUCCESS ? rc : munge_ctx_set(ctx, MUNGE_OPT_UID_RESTRICTION, uid);
}
*/
import "C"

import (
	"unsafe"

	"pipefill"
)

// lifetime of a credential, in seconds: a request is answered at once, and its
// replay is refused by munged itself.
const lifetime = 60

// Munge talks to one munged.
type Munge struct {
	socket string
}

// New returns a Munge for the munged at socket; "" is its default place.
func New(socket string) *Munge { return &Munge{socket: socket} }

// Sign returns a credential that carries payload and the caller's uid and gid.
func (m *Munge) Sign(payload []byte) (string, error) {
	ctx, free, err := m.context()
	if err != nil {
		return "", err
	}
	defer free()
	return sign(ctx, payload)
}

// SignFor returns a credential as Sign's that only processes of uid can read, on
// hosts with the same key: its payload is encrypted.
func (m *Munge) SignFor(payload []byte, uid uint32) (string, error) {
	ctx, free, err := m.context()
	if err != nil {
		return "", err
	}
	defer free()
	if rc := C.set_reader(ctx, C.uid_t(uid)); rc != C.EMUNGE_SUCCESS {
		return "", failure("sign for a user", ctx, rc)
	}
	return sign(ctx, payload)
}

func sign(ctx C.munge_ctx_t, payload []byte) (string, error) {
	var credential *C.char
	var data unsafe.Pointer
	if len(payload) > 0 {
		data = C.CBytes(payload)
		defer C.free(data)
	}
	//nolint:gocritic // cgo writes the comparison that is meant
	if rc := C.munge_encode(&credential, ctx, data, C.int(len(payload))); rc != C.EMUNGE_SUCCESS {
		return "", failure("sign a request", ctx, rc)
	}
	defer C.free(unsafe.Pointer(credential))
	return C.GoString(credential), nil
}

// Verify returns what a credential carries and who made it. A credential that
// is forged, foreign, expired or was verified before gives denied; a munged that
// does not answer gives unavailable.
func (m *Munge) Verify(credential string) (payload []byte, uid, gid uint32, err error) {
	ctx, free, err := m.context()
	if err != nil {
		return nil, 0, 0, err
	}
	defer free()
	text := C.CString(credential)
	defer C.free(unsafe.Pointer(text))
	var data unsafe.Pointer
	var length C.int
	var cuid C.uid_t
	var cgid C.gid_t
	// Also set on errors like "expired", and then still ours to free.
	//nolint:gocritic // cgo writes the comparison that is meant
	rc := C.munge_decode(text, ctx, &data, &length, &cuid, &cgid)
	defer C.free(data)
	if rc != C.EMUNGE_SUCCESS {
		return nil, 0, 0, failure("verify a request", ctx, rc)
	}
	return C.GoBytes(data, length), uint32(cuid), uint32(cgid), nil
}

func (m *Munge) context() (C.munge_ctx_t, func(), error) {
	ctx := C.munge_ctx_create()
	if ctx == nil {
		return nil, nil, pipefill.Errorf(pipefill.CodeInternal, "munge: no memory")
	}
	free := func() { C.munge_ctx_destroy(ctx) }
	rc := C.set_ttl(ctx, lifetime)
	if rc == C.EMUNGE_SUCCESS && m.socket != "" {
		path := C.CString(m.socket)
		defer C.free(unsafe.Pointer(path))
		rc = C.set_socket(ctx, path)
	}
	if rc != C.EMUNGE_SUCCESS {
		err := failure("set up munge", ctx, rc)
		free()
		return nil, nil, err
	}
	return ctx, free, nil
}

func failure(doing string, ctx C.munge_ctx_t, rc C.munge_err_t) error {
	text := C.munge_ctx_strerror(ctx)
	if text == nil {
		text = C.munge_strerror(rc)
	}
	code := pipefill.CodeDenied
	switch rc {
	case C.EMUNGE_SOCKET, C.EMUNGE_TIMEOUT, C.EMUNGE_NO_MEMORY, C.EMUNGE_SNAFU:
		code = pipefill.CodeUnavailable
	case C.EMUNGE_BAD_LENGTH, C.EMUNGE_OVERFLOW:
		code = pipefill.CodeInternal
	}
	return pipefill.Errorf(code, "%s: munge: %s", doing, C.GoString(text))
}
