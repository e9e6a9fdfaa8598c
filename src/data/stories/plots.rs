//! The plots: each has four beats and a lesson, all in several wordings, in the template language of [`super`].

/// One plot: its title, the beats in order with their wordings, and the lesson.
pub struct Plot {
    /// The subject of the plot.
    pub title: &'static str,
    /// Wordings of each beat; one per beat is told.
    pub(super) beats: [[&'static str; 3]; 4],
    /// Wordings of the lesson.
    pub(super) lessons: [&'static str; 2],
}

/// Every plot.
pub const PLOTS: &[Plot] = &[
    Plot {
        title: "something lost is found",
        beats: [
            [
                "{hero} had @ {color} {thing}, but it was gone.",
                "that day {hero} could not find the {color} {thing}.",
                "\"where is my {color} {thing}?\" cried {hero}. {he} was <very> <sad>.",
            ],
            [
                "{he} <looked> <hiding> and <hiding>, but it was not there.",
                "{friend} came to help. They <looked> <hiding> first, and then <hiding>.",
                "\"did you look <hiding>?\" asked {friend}. {hero} did, but there was [only|just|nothing but] @ {pet}.",
            ],
            [
                "<soon>, {friend} <found> something {color} {in}.",
                "<suddenly> @ {pet} [pulled|tugged] at something <hiding>.",
                "they <walked> to {place}, and {friend} <looked> <hiding>.",
            ],
            [
                "it was the {thing}! {hero} <smiled> and hugged {friend}.",
                "\"<wow>, my {thing}!\" <said> {hero}. {he} was <very> <glad>.",
                "there was the {thing}! \"<thanks>, {fname},\" <said> {hero}.",
            ],
        ],
        lessons: [
            "{hero} learned to [take care of|look after] {his} things.",
            "from then on, {hero} kept the {thing} [in a safe place|close to {him}|by the bed].",
        ],
    },
    Plot {
        title: "food is shared",
        beats: [
            [
                "{hero} had some {food} in {his} [basket|bag]. It smelled <very> good.",
                "{his} {elder} gave {hero} some {food} for the [day|walk|trip].",
                "{hero} sat down {in} to eat some {food}.",
            ],
            [
                "<then> {friend} came by. {fhe} had [nothing to eat|no lunch|lost {fhis} lunch] and looked <sad>.",
                "\"I am so hungry,\" <said> {friend}. {fhe} had no food [that day|at all|at home].",
                "{friend} looked at the {food}. \"<hello>,\" <said> {fname} <slowly>.",
            ],
            [
                "at first {hero} <wanted> to keep all of the {food}.",
                "{hero} thought [about it|for a moment|of {his} {elder}].",
                "it was {his} [last|only|favorite] food, but {hero} felt <sad> for {friend}.",
            ],
            [
                "\"let us share the {food},\" <said> {hero}. {friend} <smiled>.",
                "{hero} gave half of the {food} to {friend}, and they ate it {in}.",
                "so {hero} cut the {food} in two. \"<thanks>,\" <said> {friend}.",
            ],
        ],
        lessons: [
            "=food is [best|better] when [it is shared|friends share it]",
            "{hero} learned that sharing makes [two friends|everyone] <glad>.",
        ],
    },
    Plot {
        title: "a small animal is hurt",
        beats: [
            [
                "{hero} <found> @ {pet} {in}. It was hurt and <very> <scared>.",
                "<hiding> {he} <found> @ <small> {pet}. It was <very> <scared>.",
                "on the way to {place}, {hero} heard @ {pet} cry.",
            ],
            [
                "\"do not be <scared>,\" <said> {hero} <slowly>. \"I will help you.\"",
                "{he} put the {pet} on @ {color} {thing} and took it home.",
                "{hero} <walked> home to get {his} {elder}.",
            ],
            [
                "{his} {elder} gave the {pet} some {food} and water.",
                "{hero} made a <small> bed for the {pet} from @ {color} blanket.",
                "{friend} came to see the {pet} and brought some {food}.",
            ],
            [
                "<soon> the {pet} was well again. {hero} let it go {in}.",
                "after a [few days|week], the {pet} could [move|play] again, and {hero} was <glad>.",
                "the {pet} got [strong|better] and went back to {place}.",
            ],
        ],
        lessons: [
            "every day the {pet} came back to say hello to {hero}.",
            "{hero} learned that even a <small> friend [needs|is worth] help.",
        ],
    },
    Plot {
        title: "the dark is not so bad",
        beats: [
            [
                "when night came, {hero} was <scared> of the dark.",
                "<day>, the {color} lamp went out, and {hero} could not see {his} {thing}.",
                "{hero} did not like the dark. {he} hid under {his} {color} blanket.",
            ],
            [
                "{he} heard a <big> noise <hiding>. \"who is there?\" {he} asked.",
                "there was a <big> shadow <hiding>. It looked like @ {pet}.",
                "something <small> moved <hiding>. \"<helpme>!\" called {hero}.",
            ],
            [
                "{his} {elder} came in with @ {color} lamp and <smiled>.",
                "{hero} took @ {color} lamp and <looked> <hiding>.",
                "{friend} was there too. \"let us [look together|go and look|see what it is],\" <said> {fname}.",
            ],
            [
                "it was [only|just] @ {pet}! {hero} <smiled>.",
                "it was [only|just] {his} {color} {thing}. \"how silly I was!\" <said> {hero}.",
                "there was nothing but @ <small> {pet} that <wanted> to sleep.",
            ],
        ],
        lessons: [
            "after that, {hero} was not <scared> of the dark.",
            "{hero} went to sleep and dreamed of {place}.",
        ],
    },
    Plot {
        title: "a storm comes",
        beats: [
            [
                "{hero} and {friend} <wanted> to <game> {in}.",
                "{hero} <walked> to {place} with {friend} to <game>.",
                "they took some {food} and @ {color} {thing} to {place}.",
            ],
            [
                "<suddenly> a <big> storm came, and [the rain fell|it rained and rained|the wind blew hard|they were all wet].",
                "then it got dark, and the [wind|storm|rain] took the {thing} [away|far off|up high].",
                "\"look at the sky!\" <said> {friend}. A <big> storm was on its way.",
            ],
            [
                "they <walked> to a <small> cave and hid there with @ {pet}.",
                "{hero} <found> a <big> tree, and they sat there with @ {pet} and the {food}.",
                "@ {trait} old [farmer|man|woman] let them into the [barn|house|hut]. \"come in, {fname},\" [said|called] the [cow|hen|goose].",
            ],
            [
                "they <played> there until the storm was over.",
                "<soon> the rain stopped. \"<wow>, a rainbow!\" <said> {hero}.",
                "{hero} told {friend} a [funny|long|silly] story until the sun came back.",
            ],
        ],
        lessons: [
            "=a storm is [not so bad|almost fun|nothing] with a [good|kind|true] friend",
            "when they came home, {his} {elder} gave them some {food}.",
        ],
    },
    Plot {
        title: "learning to swim",
        beats: [
            [
                "{hero} <wanted> to swim, but {he} was <scared> of the water.",
                "all {his} friends could swim, but {hero} could not.",
                "\"I cannot swim,\" <said> {hero}. {he} sat by the water and was <sad>.",
            ],
            [
                "{friend} <said>, \"come <far>, {name}. I will [show|teach|help] you.\"",
                "{his} {elder} took {hero} to {place} <day>.",
                "\"do not give up,\" <said> {his} {elder}. \"try it <slowly>.\"",
            ],
            [
                "{hero} put [one foot|a leg|{his} nose] in the water. It was <very> [cold|wet|warm].",
                "the first time, {hero} got water in {his} nose. {friend} <smiled>.",
                "{hero} held @ {color} {thing} and kicked and kicked.",
            ],
            [
                "<soon> {he} could swim like a fish {in}!",
                "<soon> {hero} swam all the way to {friend}. {he} was <very> <glad>.",
                "\"<wow>, I can swim!\" cried {hero}. {friend} <smiled>.",
            ],
        ],
        lessons: [
            "=you must try [again|more than once|and try again]",
            "now {hero} swims with {friend} every [day|week|summer].",
        ],
    },
    Plot {
        title: "building a house",
        beats: [
            [
                "{hero} <wanted> to build a <small> house {in}.",
                "\"let us build a house {in},\" <said> {hero} to {friend}.",
                "{hero} had some wood and @ {color} {thing}. {he} had a plan.",
            ],
            [
                "{he} worked <time>, but [the wind|a storm|a <big> gust] blew it down.",
                "{friend} brought @ {color} {thing}, and they worked <time>.",
                "first they made the walls. Then @ {pet} sat on them, and they fell.",
            ],
            [
                "\"we can make it better,\" <said> {friend}. {hero} <smiled>.",
                "{hero} was <sad>, but {he} did not stop. {he} asked {his} {elder} for help.",
                "so they used <big> stones and some rope, and worked <slowly>.",
            ],
            [
                "<soon> the house was done. It was <very> strong.",
                "when [it|the house] was done, {hero} and {friend} ate some {food} in it.",
                "\"<wow>!\" <said> {his} {elder}. \"this is a <nice> house.\"",
            ],
        ],
        lessons: [
            "=good things [take|need] [time|work|friends]",
            "{hero} and {friend} <played> in the <small> house <time>.",
        ],
    },
    Plot {
        title: "something is stuck in a tree",
        beats: [
            [
                "{hero} was {in} with {his} {color} {thing}. The wind was strong.",
                "{hero} threw {his} {color} {thing} up, up, up.",
                "@ {pet} took the {color} {thing} and ran away with it.",
            ],
            [
                "the {thing} got stuck in a <big> tree. \"oh no!\" cried {hero}.",
                "<soon> the {thing} was high up in a <big> tree, and {hero} was <sad>.",
                "it was too high. {hero} jumped, but {he} could not reach it.",
            ],
            [
                "\"<helpme>!\" called {hero}. {friend} <walked> over.",
                "{friend} came with a <big> stick. \"I have a plan,\" {fhe} said.",
                "{his} {elder} came with a long rope, and {friend} came too.",
            ],
            [
                "{friend} shook the tree, and the {thing} fell down.",
                "they pulled <slowly>, and down came the {thing} and @ {pet}.",
                "{hero} climbed up <slowly> and got the {thing} back.",
            ],
        ],
        lessons: [
            "\"<thanks>,\" <said> {hero}. \"you are a true friend.\"",
            "after that, {hero} <played> with the {thing} far from trees.",
        ],
    },
    Plot {
        title: "a race",
        beats: [
            [
                "there was a <big> race {in}. {hero} <wanted> to win.",
                "\"I am faster than you,\" <said> {friend}. \"let us race to {place}.\"",
                "{hero} and {friend} ran a race for @ {color} {thing}.",
            ],
            [
                "{friend} ran <very> fast, and {hero} was far behind.",
                "{hero} was first, but <then> {he} stopped to eat some {food}.",
                "one, two, three, go! {hero} ran past @ {pet} and a <big> rock.",
            ],
            [
                "<suddenly> {friend} fell down and hurt {fhis} leg.",
                "<then> {hero} heard {friend} cry. {fhe} had lost {fhis} {thing}.",
                "on the way @ {pet} was stuck <hiding>. \"<helpme>!\" called the {pet}.",
            ],
            [
                "{hero} stopped to help. {he} did not win, but {friend} was <glad>.",
                "so {hero} went back to help. They <walked> to the end together.",
                "{hero} did not think of the race. {he} helped <slowly>, and they <smiled>.",
            ],
        ],
        lessons: [
            "=a friend is [better|more|worth more] than a [prize|ring|race]",
            "{his} {elder} gave both of them @ {color} {thing} for being so kind.",
        ],
    },
    Plot {
        title: "a seed grows",
        beats: [
            [
                "{his} {elder} gave {hero} a <small> seed.",
                "{hero} <found> a <small> seed <hiding>.",
                "@ {pet} dropped a seed next to {hero}. \"what is this?\" {he} asked.",
            ],
            [
                "{he} put it in the ground {in} and gave it water.",
                "{hero} planted it in @ {color} bucket and waited <time>.",
                "{friend} helped to plant it {in}. \"now we must wait,\" <said> {fname}.",
            ],
            [
                "nothing came up. {hero} was <sad> and <wanted> to stop.",
                "every [day|morning|evening] {hero} looked, but there was [only|just|nothing but] @ {pet}.",
                "\"when will it grow?\" asked {hero}. \"wait a little,\" <said> {his} {elder}.",
            ],
            [
                "then, <day>, there was a <big> {color} flower!",
                "<soon> a <small> green leaf came up. {hero} <smiled>.",
                "after the rain, a <big> plant stood there, with @ {pet} on it.",
            ],
        ],
        lessons: [
            "{hero} learned to wait for <nice> things.",
            "{hero} gave the first flower to {friend}, who was <very> <glad>.",
        ],
    },
    Plot {
        title: "a birthday surprise",
        beats: [
            [
                "it was the birthday of {friend}, and {hero} <wanted> to make some {food}.",
                "\"it is my birthday soon,\" <said> {friend}. {hero} had a <nice> plan.",
                "{hero} <wanted> to give {friend} @ {color} {thing} for {fhis} birthday.",
            ],
            [
                "{he} <looked> for a gift {in}, but there was none.",
                "{he} mixed {food} and [honey|milk|sugar|nuts], but it fell [on the floor|on @ {pet}|<hiding>].",
                "{hero} had no money, so {he} helped {in} <time>.",
            ],
            [
                "{hero} was <sad>. Then {he} had a new idea.",
                "\"I can help,\" <said> {his} {elder}, and they worked <time>.",
                "<suddenly> {he} <found> @ {color} {thing} <hiding>.",
            ],
            [
                "when the day came, everyone <played>. It was <very> <nice>.",
                "\"<wow>!\" <said> {friend}. \"this is the best birthday!\"",
                "they all ate some {food} and <played> <time>.",
            ],
        ],
        lessons: [
            "=a [gift|song|thing] from the heart is [best|the best gift|better than gold]",
            "{hero} was <glad> to see {his} friends so <glad>.",
        ],
    },
    Plot {
        title: "a lie and the truth",
        beats: [
            [
                "{hero} <played> with the {thing} of {his} {elder}. Crack! It broke.",
                "one of {his} toys hit @ {color} {thing}, and it fell and broke.",
                "{hero} <wanted> to <game> in the house. Then the {color} {thing} fell down.",
            ],
            [
                "{he} hid the {thing} <hiding> and was <very> <scared>.",
                "\"who did this?\" asked {his} {elder}. \"it was @ {pet},\" <said> {hero}.",
                "{hero} <said>, \"{friend} did it.\" [But that was not true|It was a lie|That was not so].",
            ],
            [
                "{hero} felt bad <time> and could not <game>.",
                "{he} could not eat the {food}, and {he} could not sleep.",
                "{friend} was <sad>. \"why did you say that?\" {fhe} asked.",
            ],
            [
                "\"I did it,\" {hero} said at last. \"I am sorry.\"",
                "so {hero} told the truth and cried. {his} {elder} hugged {him}.",
                "<soon> {hero} told {his} {elder} everything <slowly>.",
            ],
        ],
        lessons: [
            "=it is [good|best|right] to tell the truth",
            "together they fixed the {thing}, and {hero} was <glad> again.",
        ],
    },
    Plot {
        title: "someone new",
        beats: [
            [
                "a new friend came to live {in}. It was @ {fkind} named {fname}.",
                "{hero} saw {friend} {in}. {fhe} was all alone.",
                "nobody <wanted> to <game> with {friend}, because {fhe} was new.",
            ],
            [
                "{fhe} was shy and sat {in} with @ {color} {thing}.",
                "\"<hello>,\" <said> {hero}, but {friend} did not say a word.",
                "{hero} <walked> over and gave {friend} some {food}.",
            ],
            [
                "\"do you want to <game>?\" asked {hero}. {friend} <smiled>.",
                "{hero} showed {friend} {his} {color} {thing} and @ {pet}.",
                "<then> {hero} fell into the mud, and {friend} <smiled>.",
            ],
            [
                "<soon> they <played> {in} <time>.",
                "they <played> together, and {friend} was not shy any more.",
                "\"<yes>!\" <said> {friend}, and they <walked> to {place}.",
            ],
        ],
        lessons: [
            "=[it is easy|anyone can try] to make a [new|good] friend",
            "now {hero} and {friend} meet {in} every day.",
        ],
    },
    Plot {
        title: "lost in the woods",
        beats: [
            [
                "{hero} <walked> too far and could not [find the way home|see the house|find {his} {elder}].",
                "{hero} ran after @ {pet}, and <soon> {he} was lost.",
                "{hero} went to look for @ {color} {thing} and lost {his} way.",
            ],
            [
                "it got dark, and {he} was <very> <scared>.",
                "\"<helpme>!\" {he} called, but there was [only|just|nothing but] @ {pet}.",
                "{he} sat down <hiding> and cried. All was still.",
            ],
            [
                "<suddenly> {he} saw a light {in}. It was {friend}!",
                "@ {pet} <said>, \"come <far>. I know [the way|where you live|your {elder}].\"",
                "<then> {he} heard a bell. \"that is your {elder}!\" <said> @ {pet}.",
            ],
            [
                "they <walked> past a <big> tree and {place}, and there was the house.",
                "{hero} <walked> home as fast as {he} could.",
                "<soon> {hero} was home, and {his} {elder} gave {him} some {food}.",
            ],
        ],
        lessons: [
            "after that, {hero} never went so far alone.",
            "\"stay close to me,\" <said> {his} {elder}, and {hero} <smiled>.",
        ],
    },
    Plot {
        title: "stuck in the mud",
        beats: [
            [
                "{hero} and {friend} pulled @ {color} wagon with some {food} to {place}.",
                "it had rained, and {hero} <wanted> to jump in the mud {in}.",
                "{friend} had a <big> wagon with @ {color} {thing} in it.",
            ],
            [
                "then it got stuck in the [mud|<big> hole|wet sand] and [did not move|would not go|sank <slowly>].",
                "<suddenly> {friend} was stuck in the mud. \"<helpme>!\" {fhe} cried.",
                "the mud was <very> deep, and {hero} could not get out.",
            ],
            [
                "{hero} pulled <time>, but it was too [hard|deep|big] for {him}.",
                "{hero} <looked> for a <big> stick <hiding>.",
                "they called @ {pet}, and it pulled too.",
            ],
            [
                "<then> {his} {elder} came, and they [all|both] pulled. [Pop|Plop|Crack]! They [smiled|fell over|cheered].",
                "{hero} and {friend} pulled [together|<slowly>|very hard], and <soon> it was free.",
                "<soon> {hero} was out of the mud, and {friend} <smiled>.",
            ],
        ],
        lessons: [
            "=[many|two] friends can do [what one cannot|more than one|hard things]",
            "they were <very> dirty, but they were <glad>.",
        ],
    },
    Plot {
        title: "a noise at night",
        beats: [
            [
                "{hero} was in bed when {he} heard a noise.",
                "tap, tap, tap! something was <hiding>.",
                "one night {hero} heard a <big> noise by the window.",
            ],
            [
                "\"is it @ {pet}?\" {he} thought. {he} was <very> <scared>.",
                "{he} took {his} {color} {thing} and <looked> <hiding>.",
                "{he} called {his} {elder}. They <looked> <hiding> and <hiding>.",
            ],
            [
                "the noise came again, and {hero} hid under {his} {color} blanket.",
                "<slowly> {he} opened the door. It was dark.",
                "\"who is there?\" asked {hero}. Nobody said a word.",
            ],
            [
                "it was @ {pet} that wanted some {food}!",
                "it was [only|just] {friend} with @ {color} {thing}. They <smiled>.",
                "the wind had moved @ {color} {thing}. That was all.",
            ],
        ],
        lessons: [
            "{hero} <smiled> and went back to sleep.",
            "\"next time, I will look first,\" <said> {hero}.",
        ],
    },
    Plot {
        title: "a quarrel",
        beats: [
            [
                "{hero} and {friend} both wanted the {color} {thing}.",
                "{friend} took the {color} {thing} of {hero} and did not ask.",
                "\"that {color} {thing} is mine,\" <said> {hero}. \"no, mine!\" <said> {friend}.",
            ],
            [
                "they pulled <time>, and [it broke|the {thing} broke|it fell <hiding>].",
                "{hero} was <very> angry and <walked> away to {place}.",
                "{friend} was <sad> and sat <hiding> with @ {pet}.",
            ],
            [
                "{hero} <played> alone, but it was no fun.",
                "{his} {elder} <said>, \"a friend is more than @ {thing}.\"",
                "<soon> {hero} <wanted> to <game>, but {he} was alone.",
            ],
            [
                "\"I am sorry,\" <said> {hero}. \"me too,\" <said> {friend}.",
                "so {hero} took some {food} to {friend}, and they <smiled>.",
                "{friend} came {in} and <said>, \"let us <game> together.\"",
            ],
        ],
        lessons: [
            "they fixed the {thing} and took turns with it.",
            "=it is [good|best|brave] to say sorry [soon|first|to a friend]",
        ],
    },
    Plot {
        title: "a baby animal finds its mother",
        beats: [
            [
                "<hiding> {hero} <found> a baby {pet}. It was all alone.",
                "a baby {pet} came to {hero}. \"where is my mother?\" it asked.",
                "{hero} heard a <small> cry {in}. It was a baby {pet}.",
            ],
            [
                "\"do not cry,\" <said> {hero}. \"we will find her.\"",
                "{hero} gave it some {food} and asked {friend} to help.",
                "they <looked> {in} and {in2}, but she was not there.",
            ],
            [
                "\"is that your mother?\" asked {friend}. \"no, that is @ {thing},\" it said.",
                "they asked {his} {elder}, but nobody knew.",
                "they <walked> <time>, past @ {color} fence and a <big> rock.",
            ],
            [
                "<suddenly> a <big> {pet} came. \"my baby!\" she cried.",
                "<soon> they <found> the mother {in2}. She was <very> <glad>.",
                "then the {pet} jumped. \"<wow>, there she is!\" cried {friend}, and they <smiled>.",
            ],
        ],
        lessons: [
            "the mother gave {hero} @ {color} {thing} to say thanks.",
            "{hero} <walked> home and hugged {his} {elder}.",
        ],
    },
    Plot {
        title: "a magic wish",
        beats: [
            [
                "{hero} <found> @ {color} {thing} {in}. It was magic!",
                "@ {pet} said to {hero}, \"you may have one wish.\"",
                "<day>, {hero} saw a [star fall|rainbow|magic {pet}] and made a wish.",
            ],
            [
                "\"I want a <big> hill of {food},\" <said> {hero}.",
                "\"I wish to be as <big> as a house,\" <said> {hero}.",
                "{he} wished for a hundred of {his} {color} toys.",
            ],
            [
                "but <then> {he} could not <game>, and {friend} was <scared>.",
                "at first {he} <smiled>, but <soon> it was too much.",
                "there was no room for {friend} or for @ {pet} any more.",
            ],
            [
                "\"please make it as it was,\" <said> {hero}, and it was so.",
                "\"I only want to <game> with {friend},\" {hero} said <slowly>.",
                "{friend} said the magic word [{in}|<slowly>|three times], and all was <nice>.",
            ],
        ],
        lessons: [
            "{hero} was <glad> with what {he} had.",
            "after that, {hero} put the magic away <hiding>.",
        ],
    },
    Plot {
        title: "a sick friend",
        beats: [
            [
                "{friend} was sick and had to [stay in bed|stay at home|sleep <time>].",
                "{hero} <wanted> to <game> with {friend}, but {fhe} was sick.",
                "\"where is {fname}?\" asked {hero}. \"{fhe} is sick,\" <said> {his} {elder}.",
            ],
            [
                "{hero} made some {food} and took it to {friend}.",
                "{hero} picked flowers {in} and put them in @ {color} cup.",
                "{he} took @ {color} {thing} and <walked> to the house of {friend}.",
            ],
            [
                "{friend} was <sad> and did not want to eat.",
                "{hero} sat by the [bed|window|fire] and told a [story|joke] about @ {color} {pet}.",
                "\"I feel <very> bad,\" <said> {friend}. {hero} sang a song.",
            ],
            [
                "<soon> {friend} <smiled> and ate some {food}.",
                "the next day {friend} was well and could <game>.",
                "\"<thanks>,\" <said> {friend}. \"I feel better now.\"",
            ],
        ],
        lessons: [
            "=a [kind|nice|good] [word|song|visit] can make a friend feel better",
            "then they <walked> to {place} and <played> <time>.",
        ],
    },
    Plot {
        title: "learning to play music",
        beats: [
            [
                "{his} {elder} gave {hero} @ {color} flute.",
                "{hero} <wanted> to play the drum like {friend}.",
                "{hero} heard a song {in} and <wanted> to play it.",
            ],
            [
                "at first it was <very> loud, and @ {pet} ran away.",
                "{he} tried <time>, but it did not sound <nice>.",
                "\"please stop,\" <said> {friend}. {hero} was <sad>.",
            ],
            [
                "{he} went to {place} and played for @ {pet} every day.",
                "{his} {elder} showed {hero} how to play <slowly>.",
                "{hero} did not give up. {he} played <hiding> and {in}.",
            ],
            [
                "<soon> it was a <nice> song, and everyone <played>.",
                "<day>, {friend} heard it and <smiled>. \"<wow>!\" {fhe} said.",
                "then there was a show {in}, and all the people <smiled>.",
            ],
        ],
        lessons: [
            "{hero} was <glad> that {he} did not give up.",
            "now {hero} and {friend} play music together.",
        ],
    },
    Plot {
        title: "a messy room",
        beats: [
            [
                "the room of {hero} was a <big> mess.",
                "there were toys <hiding> and <hiding>. What a mess!",
                "\"please clean your room,\" <said> {his} {elder} to {hero}.",
            ],
            [
                "\"I want to <game> first,\" <said> {hero}.",
                "<then> {hero} could not find {his} {color} {thing}.",
                "{hero} fell over @ {color} {thing} and hurt {his} leg.",
            ],
            [
                "{friend} came and <said>, \"let us [make it a game|sing while we work|see who is faster], {name}.\"",
                "so {hero} put one toy <hiding>, and one in @ {color} box.",
                "{he} <found> old {food} <hiding>, and even @ {pet}!",
            ],
            [
                "<soon> the room was clean, and {hero} <smiled>.",
                "<soon> {he} <found> the {thing} <hiding>.",
                "\"<wow>!\" <said> {his} {elder}. \"it looks <very> <nice>.\"",
            ],
        ],
        lessons: [
            "when [the work|it] was done, {hero} and {fname} had time to <game>.",
            "after that, {hero} put {his} toys away every night.",
        ],
    },
    Plot {
        title: "looking at the stars",
        beats: [
            [
                "{hero} <wanted> to see the stars {in}.",
                "\"how many stars are there?\" {hero} asked {his} {elder}.",
                "that night {hero} and {friend} could not sleep.",
            ],
            [
                "they took @ {color} blanket and some {food}.",
                "they <walked> to {place} with @ {color} lamp.",
                "but there were clouds, and {hero} was <sad>.",
            ],
            [
                "they sat <time> and saw @ {pet} in the grass.",
                "{friend} sang a song, and they ate some {food}.",
                "\"wait a little,\" <said> {friend}. \"the wind will help.\"",
            ],
            [
                "<suddenly> the sky was full of [stars|{color} stars|light]. \"<wow>!\" <said> {hero}.",
                "one star looked like @ {pet}, and one like @ {thing}.",
                "<soon> they saw a <big> moon over {place}.",
            ],
        ],
        lessons: [
            "{hero} fell asleep and dreamed of [the moon|{place}|@ {pet}].",
            "they were <glad> that the night was so <nice>.",
        ],
    },
    Plot {
        title: "hide and seek",
        beats: [
            [
                "{hero} and {friend} <played> hide and seek {in}.",
                "\"let us play hide and seek,\" <said> {friend}. \"<yes>!\" <said> {hero}.",
                "{hero} closed {his} eyes and counted to ten.",
            ],
            [
                "{friend} hid <hiding>, and {hero} <looked> {in}.",
                "{hero} <looked> <hiding>, but there was [only|just|nothing but] @ {pet}.",
                "{he} <found> @ {color} {thing}, but not {friend}.",
            ],
            [
                "{he} <looked> <time> and was <sad>.",
                "\"{fname}, where are you?\" called {hero}.",
                "\"did you see {fname}?\" asked {hero}. @ {pet} shook its head.",
            ],
            [
                "<then> {he} heard a laugh <hiding>. \"I see you!\" <said> {hero}.",
                "<suddenly> {friend} jumped out, and they <smiled>.",
                "{friend} had gone to sleep <hiding>! {hero} <smiled>.",
            ],
        ],
        lessons: [
            "then it was time for some {food}, and they <walked> home.",
            "they <played> the game again and again <time>.",
        ],
    },
    Plot {
        title: "a day in the snow",
        beats: [
            [
                "there was [a lot of|new|deep] snow, and {hero} <wanted> to go out.",
                "{hero} put on @ {color} coat and <walked> to {place}.",
                "\"let us make a snowman,\" {hero} said to {friend}.",
            ],
            [
                "they made a <big> ball of snow and put @ {color} {thing} on it.",
                "{friend} had @ {color} sled, and they [went|raced|rolled] down the <big> hill.",
                "{hero} threw a snowball, and it hit {his} {elder}!",
            ],
            [
                "<then> {hero} lost {his} {color2} hat in the snow.",
                "<soon> {friend} was <very> cold and wanted some {food}.",
                "<suddenly> @ {pet} came out of the snow. It was <very> cold.",
            ],
            [
                "{his} {elder} gave them some {food}.",
                "{hero} gave {friend} {his} {color2} scarf. \"<thanks>,\" <said> {fname}.",
                "they <walked> home and <played> by the fire <time>.",
            ],
        ],
        lessons: [
            "the snow was cold, but {hero} was warm and <glad>.",
            "\"can we go again?\" asked {hero}. {his} {elder} <smiled>.",
        ],
    },
    Plot {
        title: "the big show",
        beats: [
            [
                "there was a show {in}, and {hero} had to sing.",
                "{hero} and {friend} made a show with @ {color} {thing}.",
                "{hero} <wanted> to dance {in}, but {he} was <very> shy.",
            ],
            [
                "everyone <walked> to see it, and {hero} was <scared>.",
                "{he} <looked> <hiding> for {his} {color} {thing}, but it was gone.",
                "{hero} forgot the words. {he} stood still like @ {thing}.",
            ],
            [
                "\"look at me,\" <said> {friend}, \"and sing to me.\"",
                "{his} {elder} <smiled>, and {hero} was not so <scared>.",
                "<then> @ {pet} sat on the {thing}, and everyone <smiled>.",
            ],
            [
                "{hero} sang <slowly>, and then <very> loud.",
                "it was a <nice> show. \"<wow>!\" <said> {friend}.",
                "all the people <smiled> and gave {hero} flowers.",
            ],
        ],
        lessons: [
            "=a [friend|kind word] can make you [brave|strong]",
            "after the show they ate some {food} {in2}.",
        ],
    },
];
