package hooks

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The walls of docs/design.md. The plan decides and cannot act; a kind knows how one thing
// is done and undone, and no other; the session alone knows the order.

func TestThePlanCannotAct(t *testing.T) {
	imports := []string{
		"bytes", "cmp", "crypto/sha256", "encoding/hex", "errors", "fmt", "maps", "slices", "strconv", "strings",
		"libvirt-direct/hooks/step", "libvirt-direct/internal/config", "libvirt-direct/internal/journal", "libvirt-direct/internal/link",
		"libvirt-direct/internal/ovs", "libvirt-direct/internal/settings", "libvirt-direct/vdp", "libvirt-direct/xmlfilter",
	}
	// What of those packages reaches the kernel, a daemon or a file, or needs who does.
	acts := map[string][]string{
		"libvirt-direct/hooks/step":       {"Kernel", "Host", "Env", "Switch", "Station", "NetdevOfVF", "ReadSaved"},
		"libvirt-direct/internal/config":  {"Load"},
		"libvirt-direct/internal/journal": {"Dir", "Open", "On", "Existing", "Files"},
		"libvirt-direct/internal/link":    {"Conn", "Open", "FreeIndex"},
		"libvirt-direct/internal/ovs":     {"DB", "Open", "At", "Nowhere", "Default", "Elsewhere", "InRunDir"},
	}
	_, files := parseDir(t, "plan")
	for name, file := range files {
		called := map[string]string{}
		for _, imp := range file.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			if !slices.Contains(imports, path) {
				t.Errorf("plan/%s imports %s", name, path)
			}
			called[filepath.Base(path)] = path
			if imp.Name != nil {
				called[imp.Name.Name] = path
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && slices.Contains(acts[called[pkg.Name]], sel.Sel.Name) {
					t.Errorf("plan/%s uses %s.%s", name, pkg.Name, sel.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestAKindKnowsNeitherPlanNorOrder(t *testing.T) {
	_, files := parseDir(t, "step")
	for name, file := range files {
		for _, imp := range file.Imports {
			if path := strings.Trim(imp.Path.Value, `"`); path == "libvirt-direct/hooks" || path == "libvirt-direct/hooks/plan" {
				t.Errorf("step/%s imports %s", name, path)
			}
		}
	}
}

// moreOf are the files of kinds that need more than one.
var moreOf = map[string]string{"vfbaseline": "vf", "vfhands": "vf", "vfmac": "vf"}

// kindsOf are the kinds of package step by the stem of their file.
func kindsOf(files map[string]*ast.File) map[string]string {
	kinds := map[string]string{}
	for name, file := range files {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil && f.Name.Name == "Type" {
				kinds[strings.TrimSuffix(name, ".go")] = receiver(f)
			}
		}
	}
	return kinds
}

// A kind's files use nothing that is declared in another kind's, and nothing else uses what
// is declared there but its line in the table: whoever takes both away has a package that
// compiles.
func TestAKindStandsAlone(t *testing.T) {
	fset, files := parseDir(t, "step")
	kinds := kindsOf(files)
	require.ElementsMatch(t, slices.Collect(maps.Values(kinds)), tableOf(t, files), "a file for each kind, and a line in the table")
	of := func(file string) string {
		stem := strings.TrimSuffix(file, ".go")
		if more := moreOf[stem]; more != "" {
			return more
		}
		if kinds[stem] != "" {
			return stem
		}
		return ""
	}
	for _, u := range usesAcross(t, fset, files) {
		if stem := of(u.of); stem != "" && stem != of(u.in) && !(u.in == "step.go" && u.name == kinds[stem]) {
			t.Errorf("step/%s uses %s of step/%s", u.in, u.name, u.of)
		}
	}
	for name, file := range files {
		own := map[string]bool{}
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok {
				for _, spec := range g.Specs {
					if typ, ok := spec.(*ast.TypeSpec); ok {
						own[typ.Name.Name] = true
					}
				}
			}
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil && of(name) != "" && !own[receiver(f)] && receiver(f) != kinds[of(name)] {
				t.Errorf("step/%s gives %s a method", name, receiver(f))
			}
		}
	}
}

func tableOf(t *testing.T, files map[string]*ast.File) (kinds []string) {
	t.Helper()
	for _, d := range files["step.go"].Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != "kinds" {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && len(call.Args) == 1 {
				if id, ok := call.Args[0].(*ast.Ident); ok {
					kinds = append(kinds, id.Name)
				}
			}
			return true
		})
	}
	require.NotEmpty(t, kinds)
	return kinds
}

// The order and the views know kinds by what they say of themselves.
func TestNobodyNamesAKind(t *testing.T) {
	_, steps := parseDir(t, "step")
	kinds := slices.Collect(maps.Values(kindsOf(steps)))
	_, files := parseDir(t, ".")
	for _, name := range []string{"session.go", "explain.go", "status.go", "gc.go", "claimstatus.go"} {
		require.Contains(t, files, name)
		ast.Inspect(files[name], func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "step" && slices.Contains(kinds, n.Sel.Name) {
					t.Errorf("%s names %s", name, n.Sel.Name)
				}
			case *ast.CallExpr: // by its name in a journal
				if sel, ok := n.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Type" && len(n.Args) == 0 {
					t.Errorf("%s asks of what type a step is", name)
				}
			}
			return true
		})
	}
}

func TestNoTypeKnowsEverything(t *testing.T) {
	for _, dir := range []string{".", "plan", "step"} {
		methods := map[string]int{}
		_, files := parseDir(t, dir)
		for name, file := range files {
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil && name != "session.go" {
					methods[receiver(f)]++
				}
			}
		}
		for name, n := range methods {
			if n > 20 {
				t.Errorf("%s/%s has %d methods", dir, name, n)
			}
		}
	}
}

// How many pairs of files name each other's identifiers, of how many: go test -v -run
// TestTiedPairs shows it.
func TestTiedPairs(t *testing.T) {
	ties, pairs := 0, 0
	for _, dir := range []string{".", "plan", "step"} {
		fset, files := parseDir(t, dir)
		tied := tiedPairs(t, fset, files)
		of := len(files) * (len(files) - 1) / 2
		t.Logf("%s: %d of %d pairs of files are tied", dir, tied, of)
		ties, pairs = ties+tied, pairs+of
	}
	t.Logf("hooks: %d of %d", ties, pairs)
	require.Less(t, 2*ties, pairs, "less than half: what is wrong, the layout or the helper?")
}

func tiedPairs(t *testing.T, fset *token.FileSet, files map[string]*ast.File) int {
	t.Helper()
	tied := map[[2]string]bool{}
	for _, u := range usesAcross(t, fset, files) {
		tied[[2]string{min(u.in, u.of), max(u.in, u.of)}] = true
	}
	return len(tied)
}

// use is the use in one file of what another one of the package declares: a type, a function,
// a method, a variable or a constant, but no field.
type use struct{ in, of, name string }

func usesAcross(t *testing.T, fset *token.FileSet, files map[string]*ast.File) (uses []use) {
	t.Helper()
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	// What other packages declare is not looked up: errors about that say nothing here.
	conf := types.Config{Error: func(error) {}, Importer: nowhere{}}
	pkg, _ := conf.Check("p", fset, slices.Collect(maps.Values(files)), &info)
	in := func(pos token.Pos) string { return filepath.Base(fset.File(pos).Name()) }
	for id, obj := range info.Uses {
		if v, field := obj.(*types.Var); obj.Pkg() != pkg || field && v.IsField() {
			continue
		}
		_, method := obj.(*types.Func)
		if (method || obj.Parent() == pkg.Scope()) && in(obj.Pos()) != in(id.Pos()) {
			uses = append(uses, use{in(id.Pos()), in(obj.Pos()), obj.Name()})
		}
	}
	return uses
}

type nowhere struct{}

func (nowhere) Import(path string) (*types.Package, error) {
	return types.NewPackage(path, filepath.Base(path)), nil
}

func parseDir(t *testing.T, dir string) (*token.FileSet, map[string]*ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	files := map[string]*ast.File{}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, path, nil, 0)
		require.NoError(t, err)
		files[filepath.Base(path)] = file
	}
	require.NotEmpty(t, files)
	return fset, files
}

func receiver(f *ast.FuncDecl) string {
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}
