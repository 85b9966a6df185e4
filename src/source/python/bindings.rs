//! What a module binds a name to at its top level, and what the function there takes.
//!
//! A module that binds the name in a roundabout way must not be refused: where it might, it is believed.

use ruff_python_ast::token::{TokenKind, Tokens};
use ruff_python_ast::{
    Alias, ExceptHandler, Expr, ModModule, ParameterWithDefault, Parameters, Stmt, StmtFunctionDef, StmtTry,
};
use ruff_text_size::{Ranged, TextRange};

use crate::function::{Parameter, ParameterKind};

/// A function that takes more is shown without its parameters.
const MOST_PARAMETERS: usize = 255;
/// The most bytes of a default or an annotation that are kept.
const LONGEST_TEXT: usize = 200;
/// Names that can bind any other.
const ROUNDABOUT: [&str; 7] = ["exec", "globals", "locals", "vars", "setattr", "__dict__", "__getattr__"];

/// What a name stands for once the module is imported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::source) enum Binding {
    /// It is not there.
    Nothing,
    /// A `def` with these parameters.
    Function(Vec<Parameter>),
    /// Something, or perhaps something; only the import will tell what it takes.
    Something,
}

pub(super) fn of(module: &ModModule, tokens: &Tokens, text: &str, name: &str) -> Binding {
    let mut search = Search { name, text, found: Binding::Nothing };
    search.block(&module.body, false);
    if search.found == Binding::Nothing && may_bind_otherwise(tokens, text, name) {
        return Binding::Something;
    }
    search.found
}

struct Search<'a> {
    name: &'a str,
    text: &'a str,
    found: Binding,
}

impl Search<'_> {
    /// `perhaps`: the block may not be run, or another instead.
    fn block(&mut self, body: &[Stmt], perhaps: bool) {
        body.iter().for_each(|statement| self.statement(statement, perhaps));
    }

    fn statement(&mut self, statement: &Stmt, perhaps: bool) {
        match statement {
            Stmt::FunctionDef(function) if function.name.as_str() == self.name => {
                self.bind(self.function(function), perhaps);
            }
            Stmt::ClassDef(class) if class.name.as_str() == self.name => {
                self.bind(Binding::Something, perhaps)
            }
            Stmt::Assign(assign) => assign.targets.iter().for_each(|target| self.target(target, perhaps)),
            // `run: Handler` alone binds nothing.
            Stmt::AnnAssign(assign) if assign.value.is_some() => self.target(&assign.target, perhaps),
            Stmt::Import(import) => self.names(&import.names, perhaps),
            Stmt::ImportFrom(import) => self.names(&import.names, perhaps),
            Stmt::For(each) => {
                self.target(&each.target, true);
                self.block(&each.body, true);
                self.block(&each.orelse, true);
            }
            Stmt::While(each) => {
                self.block(&each.body, true);
                self.block(&each.orelse, true);
            }
            Stmt::If(choice) => {
                self.block(&choice.body, true);
                choice.elif_else_clauses.iter().for_each(|clause| self.block(&clause.body, true));
            }
            Stmt::With(with) => {
                let targets = with.items.iter().filter_map(|item| item.optional_vars.as_deref());
                targets.for_each(|target| self.target(target, perhaps));
                self.block(&with.body, perhaps);
            }
            Stmt::Match(choice) => choice.cases.iter().for_each(|case| self.block(&case.body, true)),
            Stmt::Try(attempt) => self.attempt(attempt),
            _ => {}
        }
    }

    fn attempt(&mut self, attempt: &StmtTry) {
        self.block(&attempt.body, true);
        for ExceptHandler::ExceptHandler(handler) in &attempt.handlers {
            self.block(&handler.body, true);
        }
        self.block(&attempt.orelse, true);
        self.block(&attempt.finalbody, true);
    }

    /// Brackets nest as deep as `nesting` lets them, so this ends in time.
    fn target(&mut self, target: &Expr, perhaps: bool) {
        match target {
            Expr::Name(name) if name.id.as_str() == self.name => self.bind(Binding::Something, perhaps),
            Expr::Tuple(tuple) => tuple.elts.iter().for_each(|target| self.target(target, perhaps)),
            Expr::List(list) => list.elts.iter().for_each(|target| self.target(target, perhaps)),
            Expr::Starred(starred) => self.target(&starred.value, perhaps),
            _ => {}
        }
    }

    fn names(&mut self, names: &[Alias], perhaps: bool) {
        for alias in names {
            let bound = match &alias.asname {
                Some(name) => name.as_str(),
                // `import a.b` binds `a`.
                None => alias.name.as_str().split('.').next().unwrap_or_default(),
            };
            match bound {
                // What it brings is known to Python only; it replaces nothing that is known.
                "*" => self.bind(Binding::Something, true),
                bound if bound == self.name => self.bind(Binding::Something, perhaps),
                _ => {}
            }
        }
    }

    /// The last binding counts. Of several that may or may not come to be, only what they agree on is known.
    fn bind(&mut self, new: Binding, perhaps: bool) {
        self.found = match &self.found {
            Binding::Nothing => new,
            found if !perhaps || *found == new => new,
            _ => Binding::Something,
        };
    }

    fn function(&self, function: &StmtFunctionDef) -> Binding {
        parameters(&function.parameters, self.text).map_or(Binding::Something, Binding::Function)
    }
}

/// In the order of the source; `None` for more than anybody reads.
fn parameters(list: &Parameters, text: &str) -> Option<Vec<Parameter>> {
    let plain = |kind| {
        move |parameter: &ParameterWithDefault| {
            let default = parameter.default.as_ref().map(|default| slice(text, default.range()));
            Parameter { default, ..single(&parameter.parameter, kind, text) }
        }
    };
    let mut found: Vec<Parameter> = Vec::new();
    found.extend(list.posonlyargs.iter().map(plain(ParameterKind::PositionalOnly)));
    found.extend(list.args.iter().map(plain(ParameterKind::PositionalOrKeyword)));
    found.extend(list.vararg.as_deref().map(|rest| single(rest, ParameterKind::VarPositional, text)));
    found.extend(list.kwonlyargs.iter().map(plain(ParameterKind::KeywordOnly)));
    found.extend(list.kwarg.as_deref().map(|rest| single(rest, ParameterKind::VarKeyword, text)));
    (found.len() <= MOST_PARAMETERS).then_some(found)
}

fn single(parameter: &ruff_python_ast::Parameter, kind: ParameterKind, text: &str) -> Parameter {
    let annotation = parameter.annotation.as_ref().map(|annotation| slice(text, annotation.range()));
    Parameter { name: parameter.name.to_string(), kind, default: None, annotation }
}

fn slice(text: &str, range: TextRange) -> String {
    let text = text.get(range.to_std_range()).unwrap_or_default();
    match (0..=LONGEST_TEXT).rev().find(|at| text.is_char_boundary(*at)) {
        Some(end) if end < text.len() => format!("{}…", &text[..end]),
        _ => text.into(),
    }
}

/// Whether the name may be bound in a way that no statement of the top level shows.
fn may_bind_otherwise(tokens: &Tokens, text: &str, name: &str) -> bool {
    let word = |range: TextRange| text.get(range.to_std_range()).unwrap_or_default();
    let (mut global, mut patterns, mut named) = (false, false, false);
    let mut after_name = false;
    for token in tokens {
        match token.kind() {
            TokenKind::Name => {
                let word = word(token.range());
                if ROUNDABOUT.contains(&word) || (word == name && global) {
                    return true;
                }
                after_name = word == name;
                named |= after_name;
                continue;
            }
            // `(run := …)` at the top level, in a condition for example.
            TokenKind::ColonEqual if after_name => return true,
            // `global run` in a function that the module calls.
            TokenKind::Global => global = true,
            TokenKind::Newline | TokenKind::Semi => global = false,
            // `case run:`
            TokenKind::Case => patterns = true,
            _ => {}
        }
        after_name = false;
    }
    patterns && named
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    fn binding(text: &str) -> Binding {
        read(text, "run", Some((3, 11))).unwrap_or_else(|error| panic!("{text}{error}"))
    }

    #[test]
    fn every_way_to_bind_run_is_seen() {
        for text in [
            "from handlers import main as run",
            "from handlers import *",
            "import handlers.main as run",
            "import run.it",
            "run = lambda: 1",
            "a, (run, *b) = 1, (print, 2)",
            "a = run = print",
            "run: object = print",
            "class run: pass",
            "try:\n  from a import run\nexcept ImportError:\n  pass",
            "try:\n  pass\nfinally:\n  run = 1",
            "with open('f') as run:\n  pass",
            "for run in [print]: pass",
            "if (run := print): pass",
            "def set():\n  global run\n  run = print\nset()",
            "match print:\n  case run: pass",
            "globals()['run'] = print",
            "exec('def run(): pass')",
            "def __getattr__(name): return print",
            "setattr(__import__('sys').modules[__name__], 'run', print)",
        ] {
            assert_eq!(binding(text), Binding::Something, "{text}");
        }
        for text in [
            "def run(): pass",
            "async def run(): return await x",
            "@wraps\n@twice(3)\ndef run(): ...",
            "if True:\n  pass\nelif 1:\n  def run(): pass",
            "if a:\n  def run(): pass\nelse:\n  async def run(): pass",
            "run = None\ndef run(): pass",
        ] {
            assert_eq!(binding(text), Binding::Function(Vec::new()), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_it_is_nothing() {
        for text in [
            "",
            "def main(): pass",
            "import run_it",
            "import a.run",
            "def rerun(): pass",
            "run: object",
            "class A:\n  def run(self): pass",
            "def outer():\n  def run(): pass\n  run = 1",
            "print('run'); run\n# def run(): pass",
            "print(run=1)\ndata.run = 1\ndata['run'] = 1",
            "def outer():\n  global other\n  return run",
        ] {
            assert_eq!(binding(text), Binding::Nothing, "{text}");
        }
    }

    #[test]
    fn parameters_are_read_as_they_are_written() {
        let text =
            "def run(a, b: 'int', /, c=(1, 2), *rest: str, d, e: dict[str, int] = {'x':\n 1}, **more): ...";
        let Binding::Function(parameters) = binding(text) else { panic!("no function") };
        assert_eq!(
            crate::function::signature(&parameters),
            "a, b: 'int', /, c=(1, 2), *rest: str, d, e: dict[str, int] = {'x': 1}, **more"
        );
        assert_eq!(parameters[5].default.as_deref(), Some("{'x':\n 1}"));
        let Binding::Function(parameters) = binding("def run(x, /): ...\ndef run(*, y): ...") else {
            panic!("no function")
        };
        assert_eq!(crate::function::signature(&parameters), "*, y");
        let long = format!("def run(x='{}'): ...", "é".repeat(1000));
        let Binding::Function(parameters) = binding(&long) else { panic!("no function") };
        assert!(parameters[0].default.as_deref().unwrap().len() < 210);
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        for text in [
            "def run(x): pass\nrun = wrap(run)",
            "try:\n  from fast import run\nexcept ImportError:\n  def run(x): pass",
            "if a:\n  def run(x): pass\nelse:\n  def run(y): pass",
            "def run(x): pass\nfrom handlers import *",
        ] {
            assert_eq!(binding(text), Binding::Something, "{text}");
        }
        let many: String = (0..300).map(|n| format!("a{n}, ")).collect();
        assert_eq!(binding(&format!("def run({many}): pass")), Binding::Something);
    }
}
