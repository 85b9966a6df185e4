//! How deep a module's syntax can be, found from its tokens alone, without recursion.
//!
//! CPython bounds the same: 200 brackets, 100 levels of indentation, and a recursion of 3,000 in its compiler.

use ruff_python_ast::token::TokenKind;
use ruff_python_parser::{Mode, lexer};

use super::SyntaxError;

const BRACKETS: usize = 200;
const INDENTS: usize = 100;
/// Operators, calls, subscripts and the like, each of which may stand upon the one before it: `a + b + c`, `a.b().c()`,
/// `not not a`, `a if b else c if d else e`.
const CHAIN: usize = 3_000;

/// Refuses a module that might become a tree too deep to be walked.
pub(super) fn check(text: &str) -> Result<(), Box<SyntaxError>> {
    let mut lexer = lexer::lex(text, Mode::Module);
    let mut depth = Depth::default();
    loop {
        let kind = lexer.next_token();
        if kind == TokenKind::EndOfFile {
            return Ok(());
        }
        depth.take(kind);
        if let Some(reason) = depth.too_much() {
            return Err(Box::new(SyntaxError::somewhere(reason)));
        }
    }
}

/// What is open at one place of the text.
#[derive(Default)]
struct Depth {
    indents: usize,
    brackets: usize,
    /// Outermost first. What comes after a comma stands beside what came before it, not upon it.
    levels: Vec<Level>,
    /// The links of all levels together, and of the line outside of them.
    links: usize,
    /// Of `links`: those outside of all levels.
    line: usize,
}

struct Level {
    kind: LevelKind,
    links: usize,
}

#[derive(PartialEq)]
enum LevelKind {
    Bracket,
    /// Between `lambda` and its colon. A comma there ends no expression around it.
    LambdaParameters,
    LambdaBody,
}

impl Depth {
    fn take(&mut self, kind: TokenKind) {
        use TokenKind as T;
        match kind {
            T::Indent => self.indents += 1,
            T::Dedent => self.indents = self.indents.saturating_sub(1),
            T::Newline | T::Semi => {
                (self.brackets, self.links, self.line) = (0, 0, 0);
                self.levels.clear();
            }
            T::Comma => {
                self.close_while(|kind| *kind == LevelKind::LambdaBody);
                self.begin_anew();
            }
            T::Lpar | T::Lsqb | T::Lbrace | T::FStringStart | T::TStringStart => {
                self.link();
                self.brackets += 1;
                self.levels.push(Level { kind: LevelKind::Bracket, links: 0 });
            }
            T::Rpar | T::Rsqb | T::Rbrace | T::FStringEnd | T::TStringEnd => {
                self.close_while(|kind| *kind != LevelKind::Bracket);
                self.brackets = self.brackets.saturating_sub(1);
                self.close();
            }
            T::Lambda => {
                self.link();
                self.levels.push(Level { kind: LevelKind::LambdaParameters, links: 0 });
            }
            T::Colon => {
                self.link();
                if let Some(level) = self.levels.last_mut()
                    && level.kind == LevelKind::LambdaParameters
                {
                    level.kind = LevelKind::LambdaBody;
                }
            }
            T::Name | T::Int | T::Float | T::Complex | T::String | T::True | T::False | T::None => {}
            T::FStringMiddle | T::TStringMiddle | T::Comment | T::NonLogicalNewline | T::Ellipsis => {}
            _ => self.link(),
        }
    }

    fn link(&mut self) {
        self.links += 1;
        match self.levels.last_mut() {
            Some(level) => level.links += 1,
            None => self.line += 1,
        }
    }

    fn begin_anew(&mut self) {
        let links = self.levels.last_mut().map_or(&mut self.line, |level| &mut level.links);
        self.links -= std::mem::take(links);
    }

    fn close(&mut self) {
        self.links -= self.levels.pop().map_or(0, |level| level.links);
    }

    fn close_while(&mut self, wanted: impl Fn(&LevelKind) -> bool) {
        while self.levels.last().is_some_and(|level| wanted(&level.kind)) {
            self.close();
        }
    }

    fn too_much(&self) -> Option<&'static str> {
        if self.brackets > BRACKETS {
            Some("more than 200 brackets are open at once")
        } else if self.indents > INDENTS {
            Some("more than 100 levels of indentation")
        } else if self.links > CHAIN {
            Some("an expression of more than 3000 operators")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Binding, read};

    fn refused(text: &str) -> bool {
        read(text, "run", None).is_err_and(|error| error.to_string().contains("more than"))
    }

    /// Each of these overflows the stack of a reader that follows it, or that of the tree's own destructor.
    #[test]
    fn what_is_too_deep_is_an_error() {
        let many = 250_000;
        for (before, piece, after) in [
            ("", "(", ""),
            ("", "[", ""),
            ("x = ", "{1:", ""),
            ("x = ", "-", "1"),
            ("x = ", "not ", "1"),
            ("x = ", "await ", "1"),
            ("x = 1", "+1", ""),
            ("x = 1", "**1", ""),
            ("x = a", ".a", ""),
            ("x = a", "()", ""),
            ("x = a", "[0]", ""),
            ("x = ", "lambda: ", "1"),
            ("x = ", "lambda a, b: ", "1"),
            ("x = ", "lambda a=", "1"),
            ("x = ", "1 if 1 else ", "1"),
            ("x = f'", "{f'", ""),
            ("x: ", "a[", ""),
            ("match x:\n case ", "[", ""),
            ("x = [", "-", "1, 2]"),
        ] {
            assert!(refused(&format!("{before}{}{after}\n", piece.repeat(many))), "{piece}");
        }
        let steps: String = (0..1000).map(|step| format!("{}if 1:\n", " ".repeat(step))).collect();
        assert!(refused(&steps));
    }

    /// On the stack of a test's thread, which is that of any thread but the first.
    #[test]
    fn what_is_just_not_too_deep_is_read() {
        for (before, piece, after, many) in [
            ("x = ", "-", "1", 2_990),
            ("x = ", "not ", "1", 2_990),
            ("x = 1", "+1", "", 2_990),
            ("x = 1", "**1", "", 2_990),
            ("x = a", ".a", "", 2_990),
            ("x = a", "()", "", 2_990),
            ("x = a", "[0]", "", 2_990),
            ("x = ", "lambda: ", "1", 1_490),
            ("x = ", "1 if 1 else ", "1", 1_490),
            ("x = ", "(", &")".repeat(199), 199),
            ("x = ", "[", &"]".repeat(199), 199),
        ] {
            let text = format!("def run(): pass\n{before}{}{after}\n", piece.repeat(many));
            assert!(matches!(read(&text, "run", None), Ok(Binding::Function(_))), "{piece}");
        }
        let steps: String = (0..99).map(|step| format!("{}if 1:\n", " ".repeat(step))).collect();
        let steps = format!("{steps}{}def run(): pass\n", " ".repeat(99));
        assert!(matches!(read(&steps, "run", None), Ok(Binding::Function(_))));
    }

    #[test]
    fn a_long_table_is_not_deep() {
        let rows = "  {'a': [1, -2], 'key': lambda x, y: (x, y), 'f': f'{1 + 1}'},\n".repeat(20_000);
        let text = format!("table = [\n{rows}]\ndef run(): pass\n");
        assert!(matches!(read(&text, "run", None), Ok(Binding::Function(_))));
    }
}
