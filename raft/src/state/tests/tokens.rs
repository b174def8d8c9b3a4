//! Who may join: tokens, their uses and their end; a join that comes twice; a node in the place of a dead one.

use super::*;

const ONCE: TokenUse = TokenUse { id: TokenId(2), proof: TokenProof([2; 32]) };

fn join(name: &str, token: TokenUse, at: u64) -> Command {
    Command::AddMember(AddMember { at: Millis(at), ..add_with(name, token) })
}

#[test]
fn a_token_lets_in_as_many_as_it_says_until_it_ends() {
    let mut world = World::new();
    world.done(token(ONCE, Suffrage::Learner, 2, 1_000));
    let guessed = TokenUse { proof: TokenProof([3; 32]), ..ONCE };
    let unknown = TokenUse { id: TokenId(3), ..ONCE };
    for (it, at, refusal) in [
        (guessed, 500, Refusal::TokenUnknown),
        (unknown, 500, Refusal::TokenUnknown),
        // Who does not know the secret is not told either that it has expired.
        (guessed, 1_000, Refusal::TokenUnknown),
        (ONCE, 1_000, Refusal::TokenExpired),
        (ONCE, u64::MAX, Refusal::TokenExpired),
    ] {
        assert_eq!(world.refused(join("b", it, at)), refusal);
    }
    let Effect::Joined(b) = world.done(join("b", ONCE, 998)) else { panic!() };
    assert_eq!(world.state.members().get(b).map(|member| member.suffrage), Some(Suffrage::Learner));
    world.done(join("c", ONCE, 999));
    assert_eq!(world.refused(join("d", ONCE, 999)), Refusal::TokenUsedUp);
}

#[test]
fn a_refused_join_takes_no_use() {
    let mut world = World::new();
    world.done(token(ONCE, Suffrage::Voter, 1, 1_000));
    let named_a = AddMember { key: key("another"), ..add_with("a", ONCE) };
    assert_eq!(world.refused(Command::AddMember(named_a)), Refusal::NameTaken);
    assert_eq!(world.refused(join("", ONCE, 5)), Refusal::BadName);
    let copied = AddMember { key: key("a"), ..add_with("b", ONCE) };
    assert_eq!(world.refused(Command::AddMember(copied)), Refusal::KeyTaken);
    world.done(join("b", ONCE, 5));
}

#[test]
fn a_join_that_comes_again_finds_itself() {
    let mut world = World::new();
    world.done(token(ONCE, Suffrage::Voter, 1, 1_000));
    let first = world.done(join("b", ONCE, 5));
    // Cut off before the answer came: the token is used up, or even gone, and the node is in.
    assert_eq!(world.done(join("b", ONCE, 6)), first);
    assert_eq!(world.done(join("b", ONCE, 2_000)), first);
    assert_eq!(world.state.tokens().get(ONCE.id).map(|token| token.uses_left), Some(0));
    // The same name with another key is somebody else.
    let other = AddMember { key: key("b, a new disk"), ..add_with("b", OPEN) };
    assert_eq!(world.refused(Command::AddMember(other)), Refusal::NameTaken);
}

#[test]
fn a_newcomer_takes_the_place_of_a_dead_member_in_one_step() {
    let (mut world, b) = World::with_b();
    let again = |replaces| {
        Command::AddMember(AddMember { replaces, key: key("b, a new disk"), ..add_with("b", OPEN) })
    };
    assert_eq!(world.refused(again(Some(A))), Refusal::OwnsSegments);
    assert_eq!(world.refused(again(Some(NodeId(999)))), Refusal::NameTaken);
    let Command::Assign(to_a) = assign(vec![(SEG, Epoch(1))], A, RUN_A) else { panic!() };
    world.done(Command::Assign(Assign { standby: Some(b), ..to_a }));
    let outcome = world.apply(again(Some(b)));
    let Ok(Effect::Joined(fresh)) = outcome.result else { panic!("{outcome:?}") };
    assert_eq!(outcome.touched, [Touched::Members, Touched::Segment(SEG), Touched::Tokens]);
    let members = world.state.members();
    assert!(members.get(b).is_none(), "an id is never used again");
    assert_eq!(members.get(fresh).map(|member| member.replaces), Some(Some(b)));
    assert_eq!(world.refused(start_after(RUN_B, b, Incarnation(0xb2))), Refusal::UnknownNode);
    let nobody = AddMember { replaces: Some(b), ..add_with("c", OPEN) };
    assert_eq!(world.refused(Command::AddMember(nobody)), Refusal::UnknownNode);
}

#[test]
fn a_founder_with_a_new_disk_leaves_a_voter_behind() {
    let mut world = World { index: 1, ..World::default() };
    world.done(create());
    world.done(token(ONCE, Suffrage::Learner, 9, 1_000));
    let again =
        |token| Command::AddMember(AddMember { replaces: Some(A), key: key("new"), ..add_with("a", token) });
    assert_eq!(world.refused(again(ONCE)), Refusal::LastVoter);
    world.done(token(OPEN, Suffrage::Voter, 9, 1_000));
    world.done(again(OPEN));
}

#[test]
fn tokens_that_make_no_sense_are_refused_and_old_ones_are_swept() {
    let mut world = World::new();
    assert_eq!(world.refused(token(OPEN, Suffrage::Voter, 1, 9)), Refusal::BadToken, "the id is taken");
    assert_eq!(world.refused(token(ONCE, Suffrage::Voter, 0, 9)), Refusal::BadToken);
    assert_eq!(world.refused(token(ONCE, Suffrage::Voter, 1, 1)), Refusal::BadToken);
    let numbered = |id: usize, at: u64| {
        let (id, proof) = (TokenId(id as u64), TokenProof([0; 32]));
        let (role, uses, expires_at) = (Suffrage::Voter, 1, Millis(at + 10));
        Command::CreateToken(CreateToken { id, proof, role, uses, expires_at, at: Millis(at) })
    };
    // The open one counts too.
    for id in 2..=limits::TOKENS_MAX {
        world.done(numbered(id, 100));
    }
    assert_eq!(world.refused(numbered(0, 109)), Refusal::TooManyTokens);
    world.done(numbered(0, 110));
    let left: Vec<u64> = world.state.tokens().iter().map(|token| token.id.0).collect();
    assert_eq!(left, [0, 1]);
}
