package pipefill

import (
	"errors"
	"fmt"
	"net/http"
)

// Code classifies an Error for the exit status and the HTTP status.
type Code string

// The codes, one meaning each.
const (
	CodeInvalid     Code = "invalid"     // the caller's input is wrong
	CodeNotFound    Code = "not_found"   // the named thing does not exist, or is not the caller's to see
	CodeConflict    Code = "conflict"    // it exists but its state forbids this; also: cannot fit
	CodeUnavailable Code = "unavailable" // something we need did not answer; try again
	CodeDenied      Code = "denied"      // the caller may not
	CodeInternal    Code = "internal"    // our fault
)

// Codes lists every code; the status tables are tested against it.
var Codes = []Code{CodeInvalid, CodeNotFound, CodeConflict, CodeUnavailable, CodeDenied, CodeInternal}

var httpStatus = map[Code]int{
	CodeInvalid:     http.StatusBadRequest,
	CodeNotFound:    http.StatusNotFound,
	CodeConflict:    http.StatusConflict,
	CodeUnavailable: http.StatusServiceUnavailable,
	CodeDenied:      http.StatusForbidden,
	CodeInternal:    http.StatusInternalServerError,
}

var exitStatus = map[Code]int{
	CodeInternal:    1,
	CodeInvalid:     2,
	CodeNotFound:    3,
	CodeConflict:    4,
	CodeUnavailable: 5,
	CodeDenied:      6,
}

// Error is what a part of pipefill returns when a person may read it.
// Message ends in what to do; Err is the cause, for the log and errors.Is/As.
type Error struct {
	Code    Code
	Message string
	Err     error
}

// Errorf builds an Error; a %w operand becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Error returns the message a person reads.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrorCode returns the code of the first Error in err's chain, CodeInternal
// where there is none, and "" for nil.
func ErrorCode(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// HTTPStatus maps a code to the status a server answers with.
func HTTPStatus(code Code) int {
	if s, ok := httpStatus[code]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// CodeOfHTTP is the inverse of HTTPStatus; a status of nobody's is CodeInternal.
func CodeOfHTTP(status int) Code {
	for code, s := range httpStatus {
		if s == status {
			return code
		}
	}
	return CodeInternal
}

// ExitStatus maps an error to the exit status of pipefill-cli: 0 done,
// 1 internal, 2 usage, 3 not found, 4 conflict or cannot fit, 5 unavailable,
// 6 denied.
func ExitStatus(err error) int {
	if err == nil {
		return 0
	}
	return exitStatus[ErrorCode(err)]
}
