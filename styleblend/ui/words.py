"""What the page says, in English and Chinese. The browser's language chooses; settings are explained in English."""
from __future__ import annotations

from typing import Dict

WORDS: Dict[str, tuple] = {
    # tabs
    "draw": ("Draw", "绘图"), "train": ("Train", "训练"), "compare": ("Compare", "比较"),
    "styles": ("Styles", "风格"),
    "history": ("History", "历史"),
    # drawing
    "prompts": ("Prompts, one a line", "提示词，每行一个"),
    "style": ("Style", "风格"), "no_style": ("none: a plain picture", "无：普通图片"),
    "method": ("Method that draws by pictures", "按参考图绘制的方法"), "no_method": ("none", "无"),
    "references": ("Reference pictures: drop them here", "参考图片：拖放到这里"),
    "count": ("Pictures of each prompt", "每个提示词的张数"), "seed": ("Seed", "随机种子"),
    "locked": ("Lock the seed", "锁定种子"),
    "locked_info": ("free: another one each time", "不锁定：每次不同"),
    "negative": ("What should not be shown", "不希望出现的内容"),
    "strength": ("Strength of the style", "风格强度"),
    "settings": ("All settings (empty: as the config or the style says)",
                 "全部设置（留空：按配置或风格）"),
    "go": ("Draw", "开始绘制"), "stop": ("Stop", "停止"), "again": ("Again", "再来一次"),
    "pictures": ("Pictures", "图片"), "record": ("How it was drawn", "绘制记录"),
    "as_reference": ("Use as reference", "用作参考图"),
    "use_settings": ("Use these settings", "使用这些设置"),
    # what happens
    "waiting": ("Waiting: {0} before this one", "排队中：前面还有 {0} 个任务"),
    "running": ("At work", "进行中"),
    "starting": ("Starting; the first start compiles for minutes",
                 "正在启动；首次启动需要编译几分钟"),
    "done": ("Done", "完成"), "stopped": ("Stopped; what is whole is kept", "已停止；已完成的部分保留"),
    "failed": ("Not done", "未完成"), "stopping": ("Stopping after this step", "将在本步之后停止"),
    "nothing": ("Nothing yet", "还没有任务"),
    "added": ("In the queue: {0} before it", "已加入队列：前面有 {0} 个"),
    "choose_picture": ("Choose a picture first", "请先选择一张图片"),
    # training
    "train_pictures": ("3 to 10 pictures of one style: drop them here",
                       "同一风格的 3 到 10 张图片：拖放到这里"),
    "train_name": ("Name of the style", "风格名称"), "train_method": ("Method", "方法"),
    "propose": ("Put them in and propose captions", "加入图片并建议说明"),
    "captions": ("What each picture shows, besides its style", "每张图片的内容（风格除外）"),
    "start_training": ("Start, or go on", "开始或继续训练"), "overwrite": ("Begin anew", "重新开始"),
    "training_pictures": ("Pictures of the training", "训练中的图片"),
    "training_settings": ("Settings of the trainings (empty: the config's)", "训练设置（留空：按配置）"),
    # styles
    "refresh": ("Look again", "刷新"), "chosen_style": ("Style", "风格"), "format": ("Format", "格式"),
    "export": ("Export", "导出"), "exported": ("Exported files", "导出的文件"), "delete": ("Delete", "删除"),
    "really": ("Delete the style for ever? Its pictures stay.",
               "永久删除这个风格吗？它的图片会保留。"),
    "yes_delete": ("Yes, delete it", "是，删除"), "no": ("No", "否"),
    "deleted": ("{0} is deleted", "{0} 已删除"),
    "load_files": ("Adapter files of other programs", "其他程序的适配器文件"),
    "load": ("Load as a style", "导入为风格"),
    # history
    "search": ("Words of the prompt", "搜索提示词"), "all_styles": ("all", "全部"),
    "look": ("Search", "搜索"),
    # comparison
    "own_prompts": ("empty: those of each style's prompt.json", "留空：每个风格的 prompt.json"),
    "methods": ("Methods, two or more", "两种或更多方法"), "all_methods": ("empty: all that can", "留空：所有可用的"),
    "all_of_data": ("empty: all that have pictures", "留空：所有有图片的"), "seeds": ("Seeds", "种子"),
    "looked_at": ("Pictures of a style that methods look at which learn nothing", "不学习的方法看几张风格图"),
    "report": ("The report, with all pictures and intervals", "报告：全部图片和置信区间"),
    "start_compare": ("Compare", "开始比较"),
}
ENGLISH, CHINESE = "en", "zh"


def words_of(language: str) -> Dict[str, str]:
    """All of them in one language."""
    return {key: both[language == CHINESE] for key, both in WORDS.items()}


def said(language: str, key: str, *values) -> str:
    """One of them, with values."""
    return words_of(language)[key].format(*values)


def language_of(accepted: str) -> str:
    """Of an Accept-Language header: its first language counts."""
    first = accepted.split(",")[0].strip().lower()
    return CHINESE if first.split("-")[0] == CHINESE else ENGLISH
