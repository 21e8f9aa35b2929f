// Package bridgeconf decides over plain bridges as bridge.conf says, the access list of qemu-bridge-helper.
//
// QEMU's own builds and most distributions read /etc/qemu/bridge.conf, RHEL and its kin /etc/qemu-kvm/bridge.conf. A
// host may have both, and then both are read as if one included the other: which of them a QEMU on this host was built
// to read is not for the helper to guess, and a deny line that the administrator wrote into either has to hold. One that
// exists and cannot be read denies everything, as an included file does; none at all denies everything too.
//
// A file is read line by line. Blank lines and lines whose first non-blank character is # are skipped; the others are
//
//	allow BRIDGE|all
//	deny BRIDGE|all
//	include FILE
//
// with the words separated by blanks or tabs, keywords in lower case, FILE an absolute path. All lines count, in
// whatever order: a bridge is denied if any line denies it, otherwise allowed if any line allows it, otherwise denied.
//
// A line is about a device, not about one of its names: BRIDGE may be its name or any of its alternative names (ip link
// property), whichever of them the caller uses. A deny line may also give the device's alias, which is a
// description that several devices may share.
//
// Who may read a file decides for whom its allow lines count: a file is read with the caller's own permissions. Three
// things are stricter than in qemu-bridge-helper, which lets each of them pass: the deny lines of an included file that
// the caller may not read count all the same; a file that cannot be read at all, or holds a line of another form, denies
// everything; and every file must be root's alone (package trusted).
package bridgeconf

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Path is the main file, and PathRHEL that of RHEL's QEMU.
const (
	Path     = "/etc/qemu/bridge.conf"
	PathRHEL = "/etc/qemu-kvm/bridge.conf"
)

// Paths are the main files.
var Paths = []string{Path, PathRHEL}

// Device is a bridge under all its names.
type Device struct {
	Names []string // at least one
	Alias string   // IFLA_IFALIAS; only deny lines look at it
}

// Limits of a set of files.
const (
	maxDepth = 8   // of includes
	maxFiles = 64  // read in all
	maxLine  = 255 // octets of one that is no comment
)

// Causes of a denial, matched with errors.Is.
var (
	ErrDenied = errors.New("the bridge is not allowed")
	ErrSyntax = errors.New("not one of: allow BRIDGE, deny BRIDGE, include FILE")
	ErrMark   = errors.New("a byte order mark stands before the text: save the file without")
	ErrLoop   = errors.New("includes nested too deeply, or too many of them")
)

// Files reads one file, either as the caller or, where that is refused with EACCES, as root.
type Files interface {
	ReadAsCaller(path string) ([]byte, error)
	ReadAsRoot(path string) ([]byte, error)
}

type list struct {
	files   Files
	device  Device
	allowed bool
	denied  bool
	read    int
	allows  []string // files with an allow line that counts
}

// Check returns nil if the caller may use the device, an error wrapping ErrDenied if the main files at paths say
// otherwise, and another error, which is a denial too, if they cannot be read or understood. If there is none of them,
// the error is that of the first.
func Check(files Files, paths []string, d Device) error {
	l := list{files: files, device: d}
	if err := l.all(paths); err != nil {
		return err
	}
	if l.denied || !l.allowed {
		return ErrDenied
	}
	return nil
}

// Allowing returns those of the main files at paths, and of the files they include, that have an allow line for any
// bridge.
func Allowing(files Files, paths []string) ([]string, error) {
	l := list{files: files}
	err := l.all(paths)
	return l.allows, err
}

// all reads the main files.
func (l *list) all(paths []string) error {
	var missing error
	found := false
	for _, path := range paths {
		err := l.file(path, 0, true)
		if e, ok := err.(*missingError); ok {
			if missing == nil {
				missing = e.err
			}
			continue
		}
		if err != nil {
			return err
		}
		found = true
	}
	if found {
		return nil
	}
	return missing
}

// missingError is a main file that does not exist. An included one has to.
type missingError struct{ err error }

func (e *missingError) Error() string { return e.err.Error() }

// file reads one file. mayAllow is false below a file that the caller himself could not read.
func (l *list) file(path string, depth int, mayAllow bool) error {
	l.read++
	if depth > maxDepth || l.read > maxFiles {
		return at(path, 0, ErrLoop)
	}
	var b []byte
	err := error(unix.EACCES)
	if mayAllow {
		b, err = l.files.ReadAsCaller(path)
	}
	if errors.Is(err, unix.EACCES) && depth > 0 {
		mayAllow = false
		b, err = l.files.ReadAsRoot(path)
	}
	if errors.Is(err, unix.ENOENT) && depth == 0 {
		return &missingError{err}
	}
	if err != nil {
		return err
	}
	text := string(b)
	for n := 1; text != ""; n++ {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		if n == 1 && strings.HasPrefix(line, "\ufeff") { // qemu-bridge-helper reads no such file either
			return at(path, n, ErrMark)
		}
		if err := l.line(path, line, depth, mayAllow); err == ErrSyntax {
			return at(path, n, err)
		} else if err != nil {
			return err // an included file's, which names itself
		}
	}
	return nil
}

func (l *list) line(path, line string, depth int, mayAllow bool) error {
	words := fields(line)
	if len(words) == 0 || words[0][0] == '#' { // however long
		return nil
	}
	if len(words) != 2 || len(line) > maxLine {
		return ErrSyntax
	}
	match := words[1] == "all" || slices.Contains(l.device.Names, words[1])
	switch words[0] {
	case "allow":
		l.allowed = l.allowed || match && mayAllow
		if mayAllow && !slices.Contains(l.allows, path) {
			l.allows = append(l.allows, path)
		}
	case "deny":
		l.denied = l.denied || match || words[1] == l.device.Alias
	case "include":
		return l.file(words[1], depth+1, mayAllow)
	default:
		return ErrSyntax
	}
	return nil
}

// fields splits at blanks and tabs; any other control character makes a word that nothing matches.
func fields(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' })
}

// Error is a line that could not be followed.
type Error struct {
	Path string
	Line int // from 1; 0 if the file as a whole is meant
	Err  error
}

func at(path string, line int, err error) error { return &Error{path, line, err} }

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Path + ": " + e.Err.Error()
	}
	return e.Path + ":" + strconv.Itoa(e.Line) + ": " + e.Err.Error()
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }
